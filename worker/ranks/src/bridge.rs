//! The functions of `bridge/ranks.cc`, and how their errors are read.

use std::ffi::{CStr, c_char};
use std::marker::{PhantomData, PhantomPinned};
use std::ptr::NonNull;

use torch_sys::C_tensor;

/// Something on the other side, known by its address alone.
macro_rules! opaque {
    ($($name:ident),*) => {$(
        #[repr(C)]
        pub(crate) struct $name {
            _data: [u8; 0],
            _marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque!(Store, Group);

#[allow(unsafe_code)]
unsafe extern "C" {
    pub(crate) fn ranks_open_store(
        host: *const c_char,
        port: u16,
        serves: bool,
        timeout_ms: u64,
        error: *mut *mut c_char,
    ) -> *mut Store;
    pub(crate) fn ranks_port(store: *const Store) -> u16;
    pub(crate) fn ranks_close_store(store: *mut Store);
    pub(crate) fn ranks_join(
        store: *const Store,
        address: *const c_char,
        rank: u32,
        size: u32,
        timeout_ms: u64,
        device: i32,
        error: *mut *mut c_char,
    ) -> *mut Group;
    pub(crate) fn ranks_sum_on_gpus(group: *const Group) -> bool;
    pub(crate) fn ranks_leave(group: *mut Group);
    pub(crate) fn ranks_sum(
        group: *const Group,
        tensor: *const C_tensor,
        error: *mut *mut c_char,
    ) -> *const Group;
    pub(crate) fn ranks_summed(
        group: *const Group,
        tensor: *const C_tensor,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
    fn ranks_free_text(text: *mut c_char);
}

/// What `call` returns, or the first line of what libtorch threw; the others are a stack.
pub(crate) fn checked<T>(call: impl FnOnce(*mut *mut c_char) -> *mut T) -> Result<NonNull<T>, String> {
    let mut error: *mut c_char = std::ptr::null_mut();
    let found = NonNull::new(call(&raw mut error));
    let text = NonNull::new(error).map(|error| {
        #[allow(unsafe_code)]
        // SAFETY: the bridge set it to a string of its own, which ends with NUL and is
        // freed once.
        unsafe {
            let text = CStr::from_ptr(error.as_ptr()).to_string_lossy().into_owned();
            ranks_free_text(error.as_ptr());
            text
        }
    });
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    found.ok_or_else(|| text.map_or_else(|| "no message".to_owned(), first_line))
}
