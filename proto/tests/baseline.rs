//! What clients were promised stays: `baseline/cakes.v1.txt` lists every field, value and
//! method of the last release, and each of its lines must still hold. New ones may come.
//!
//! After a release, or where a promise is broken on purpose (say so in the release notes,
//! and write `reserved` for a field's number and name):
//!
//! ```sh
//! RENEW_BASELINE=1 cargo test -p cakes-proto --test baseline
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

/// One line for each thing that a client's generated code or stored JSON depends on.
fn promises(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "cakes.v1") {
        for message in &file.message_type {
            of_message("cakes.v1", message, &mut lines);
        }
        for value in &file.enum_type {
            of_enum("cakes.v1", value, &mut lines);
        }
        for service in &file.service {
            of_service(service, &mut lines);
        }
    }
    lines
}

fn of_message(prefix: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{prefix}.{}", message.name());
    // One without fields is promised too.
    lines.insert(format!("message {name}"));
    for field in &message.field {
        lines.insert(of_field(&name, field, message));
    }
    for nested in &message.nested_type {
        of_message(&name, nested, lines);
    }
    for nested in &message.enum_type {
        of_enum(&name, nested, lines);
    }
}

fn of_field(message: &str, field: &FieldDescriptorProto, of: &DescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        kind => kind.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let presence = match (field.label(), field.proto3_optional(), field.oneof_index) {
        (Label::Repeated, _, _) => "repeated ".to_owned(),
        (_, true, _) => "optional ".to_owned(),
        (_, false, Some(index)) => format!("oneof {} ", of.oneof_decl[index as usize].name()),
        _ => String::new(),
    };
    // The JSON name is what search files are written in.
    format!("field {message} {} = {presence}{kind} {} ({})", field.number(), field.name(), field.json_name())
}

fn of_enum(prefix: &str, of: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &of.value {
        lines.insert(format!("value {prefix}.{} {} = {}", of.name(), value.number(), value.name()));
    }
}

fn of_service(service: &ServiceDescriptorProto, lines: &mut BTreeSet<String>) {
    for method in &service.method {
        let stream = |is: bool| if is { "stream " } else { "" };
        lines.insert(format!(
            "method cakes.v1.{}/{}({}{}) returns {}{}",
            service.name(),
            method.name(),
            stream(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            stream(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        ));
    }
}

/// Promises of the baseline that do not hold any more.
fn broken(baseline: &str, now: &BTreeSet<String>) -> Vec<String> {
    let is_promise = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let kept = |line: &&str| now.contains(*line);
    baseline.lines().filter(is_promise).filter(|line| !kept(line)).map(str::to_owned).collect()
}

fn current() -> FileDescriptorSet {
    FileDescriptorSet::decode(cakes_proto::DESCRIPTORS).unwrap()
}

#[test]
fn nothing_that_was_released_is_taken_back() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline/cakes.v1.txt");
    let now = promises(&current());
    if std::env::var_os("RENEW_BASELINE").is_some() {
        let note = "# What clients may rely on; tests/baseline.rs says how this is renewed.";
        let lines: Vec<&str> = std::iter::once(note).chain(now.iter().map(String::as_str)).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let baseline = std::fs::read_to_string(&path).unwrap();
    assert!(baseline.lines().count() > 400, "{} holds too little", path.display());
    let broken = broken(&baseline, &now);
    assert!(
        broken.is_empty(),
        "clients of the last release break; put back what these lines promise, or accept the break with \
         RENEW_BASELINE=1 and this test:\n{}",
        broken.join("\n")
    );
}

/// Each kind of break is seen, and an addition is none.
#[test]
fn every_kind_of_break_is_seen() {
    let baseline = promises(&current()).into_iter().collect::<Vec<_>>().join("\n");
    let after = |change: fn(&mut FileDescriptorSet)| {
        let mut set = current();
        change(&mut set);
        broken(&baseline, &promises(&set)).len()
    };
    fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
        set.file.iter_mut().flat_map(|file| &mut file.message_type).find(|of| of.name() == name).unwrap()
    }
    fn service(set: &mut FileDescriptorSet) -> &mut ServiceDescriptorProto {
        set.file.iter_mut().flat_map(|file| &mut file.service).next().unwrap()
    }
    assert_eq!(after(|set| message(set, "Worker").field[0].number = Some(99)), 1);
    assert_eq!(after(|set| message(set, "Worker").field[0].set_type(Type::Bytes)), 1);
    assert_eq!(after(|set| message(set, "Worker").field[0].name = Some("key".to_owned())), 1);
    assert_eq!(after(|set| message(set, "Worker").field[0].set_label(Label::Repeated)), 1);
    assert_eq!(after(|set| drop(message(set, "Worker").field.pop())), 1);
    assert_eq!(after(|set| message(set, "ListWorkersRequest").name = Some("Other".to_owned())), 1);
    assert_eq!(after(|set| drop(service(set).method.pop())), 1);
    assert_eq!(after(|set| service(set).method[0].server_streaming = Some(true)), 1);
    let enumeration = |set: &mut FileDescriptorSet| {
        let mut enums = set.file.iter_mut().flat_map(|file| &mut file.enum_type);
        enums.find(|of| of.name() == "WorkerState").unwrap().value[1].number = Some(42);
    };
    assert_eq!(after(enumeration), 1);
    let addition = |set: &mut FileDescriptorSet| {
        let worker = message(set, "Worker");
        let field = FieldDescriptorProto { number: Some(1000), ..worker.field[0].clone() };
        worker.field.push(field);
    };
    assert_eq!(after(addition), 0);
}
