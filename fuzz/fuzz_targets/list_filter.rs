#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cakes_fuzz_targets::names::list_filter(bytes));
