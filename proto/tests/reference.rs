//! The reference pages of the API and of the search file are what the comments of the
//! `.proto` files say. After a change:
//!
//! ```sh
//! RENEW_REFERENCE=1 cargo test -p cakes-proto --test reference
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

const PACKAGE: &str = ".cakes.v1.";

/// Compares a page with `text`, or writes it if the variable asks for that.
fn same(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("RENEW_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == text,
        "{name} is not what the code says; RENEW_REFERENCE=1 with this test writes it anew"
    );
}

/// A message or an enumeration with its comments.
enum Kind<'a> {
    Message(&'a DescriptorProto),
    Enum(&'a EnumDescriptorProto),
}

struct Named<'a> {
    kind: Kind<'a>,
    file: &'a FileDescriptorProto,
    /// Its place in the file, as comments are found by.
    path: Vec<i32>,
}

/// All messages and enumerations of the package, by full name.
fn index(set: &FileDescriptorSet) -> BTreeMap<String, Named<'_>> {
    let mut found = BTreeMap::new();
    for file in set.file.iter().filter(|file| file.package() == "cakes.v1") {
        for (at, message) in file.message_type.iter().enumerate() {
            add(&mut found, PACKAGE, file, vec![4, at as i32], message);
        }
        for (at, value) in file.enum_type.iter().enumerate() {
            let named = Named { kind: Kind::Enum(value), file, path: vec![5, at as i32] };
            found.insert(format!("{PACKAGE}{}", value.name()), named);
        }
    }
    found
}

fn add<'a>(
    found: &mut BTreeMap<String, Named<'a>>,
    prefix: &str,
    file: &'a FileDescriptorProto,
    path: Vec<i32>,
    message: &'a DescriptorProto,
) {
    let name = format!("{prefix}{}", message.name());
    for (at, nested) in message.nested_type.iter().enumerate() {
        let path = [path.as_slice(), &[3, at as i32]].concat();
        add(found, &format!("{name}."), file, path, nested);
    }
    for (at, nested) in message.enum_type.iter().enumerate() {
        let path = [path.as_slice(), &[4, at as i32]].concat();
        found.insert(format!("{name}.{}", nested.name()), Named { kind: Kind::Enum(nested), file, path });
    }
    found.insert(name, Named { kind: Kind::Message(message), file, path });
}

/// The comment in front of what stands at `path`, as one line for each paragraph.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let info = file.source_code_info.as_ref();
    let at = |location: &&Location| location.path == path;
    let location = info.and_then(|info| info.location.iter().find(at));
    let text = location.map(Location::leading_comments).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" ").trim().replace("  ", "\n\n")
}

fn short(name: &str) -> &str {
    name.strip_prefix(PACKAGE).unwrap_or(name.trim_start_matches('.'))
}

fn link(name: &str) -> String {
    let short = short(name);
    match name.starts_with(PACKAGE) {
        true => format!("[{short}](#{})", short.to_lowercase().replace('.', "")),
        false => short.to_owned(),
    }
}

fn field_type(field: &FieldDescriptorProto, index: &BTreeMap<String, Named<'_>>) -> String {
    let plain = match field.r#type() {
        Type::Message | Type::Enum => {
            if let Some(Named { kind: Kind::Message(entry), .. }) = index.get(field.type_name())
                && entry.options.as_ref().is_some_and(|options| options.map_entry())
            {
                let part = |at: usize| field_type(&entry.field[at], index);
                return format!("map of {} to {}", part(0), part(1));
            }
            link(field.type_name())
        }
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    match field.label() {
        Label::Repeated => format!("list of {plain}"),
        _ if field.proto3_optional() => format!("optional {plain}"),
        _ => plain,
    }
}

fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|").replace('<', "&lt;")
}

fn section(name: &str, named: &Named<'_>, index: &BTreeMap<String, Named<'_>>) -> String {
    let mut text = format!("### {}\n\n{}\n\n", short(name), comment(named.file, &named.path));
    let below = |kind: i32, at: usize| [named.path.as_slice(), &[kind, at as i32]].concat();
    match &named.kind {
        Kind::Enum(values) => {
            text += "| value | means |\n|---|---|\n";
            for (at, value) in values.value.iter().enumerate() {
                let meaning = cell(&comment(named.file, &below(2, at)));
                text += &format!("| `{}` | {meaning} |\n", value.name());
            }
        }
        Kind::Message(message) if message.field.is_empty() => text += "No fields.\n",
        Kind::Message(message) => {
            text += "| field | type | |\n|---|---|---|\n";
            for (at, field) in message.field.iter().enumerate() {
                let mut meaning = cell(&comment(named.file, &below(2, at)));
                if let Some(choice) = one_of(message, field) {
                    meaning = format!("One of *{choice}*. {meaning}");
                }
                text += &format!("| `{}` | {} | {meaning} |\n", field.name(), field_type(field, index));
            }
        }
    }
    text + "\n"
}

/// Name of the choice that the field is one of.
fn one_of<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a str> {
    let at = field.oneof_index.filter(|_| !field.proto3_optional())?;
    message.oneof_decl.get(at as usize).map(|choice| choice.name())
}

/// What `name` needs, itself first, in the order in which it is met.
fn reachable(name: &str, index: &BTreeMap<String, Named<'_>>) -> Vec<String> {
    let (mut order, mut seen, mut open) = (Vec::new(), BTreeSet::new(), vec![name.to_owned()]);
    while let Some(next) = open.pop() {
        let Some(named) = index.get(&next).filter(|_| seen.insert(next.clone())) else { continue };
        if let Kind::Message(message) = named.kind {
            open.extend(message.field.iter().rev().map(|field| field.type_name().to_owned()));
            if message.options.as_ref().is_some_and(|options| options.map_entry()) {
                continue;
            }
        }
        order.push(next);
    }
    order
}

fn set() -> FileDescriptorSet {
    FileDescriptorSet::decode(cakes_proto::DESCRIPTORS).unwrap()
}

#[test]
fn the_page_of_the_search_file_is_what_the_messages_say() {
    let set = set();
    let index = index(&set);
    let mut page = String::from(
        "# The search file\n\n\
         What `cakes search submit FILE` and `grpcurl` take, as JSON or YAML: the message\n\
         SubmitSearchRequest. A field that is left out takes its default; a field that is not\n\
         known, or a value that makes no sense, is refused with its path. Examples are in\n\
         [deploy/examples](../../deploy/examples).\n\n\
         This page is made from the comments of the messages.\n\n",
    );
    for name in reachable(".cakes.v1.SubmitSearchRequest", &index) {
        page += &section(&name, &index[&name], &index);
    }
    assert!(page.contains("`budgets`") && page.contains("### EncoderDecoder"), "{page}");
    same("search-file.md", &format!("{}\n", page.trim_end()));
}

fn method(file: &FileDescriptorProto, path: &[i32], method: &MethodDescriptorProto) -> String {
    let streams = if method.server_streaming() { "stream of " } else { "" };
    format!(
        "| `{}` | {} | {streams}{} | {} |\n",
        method.name(),
        link(method.input_type()),
        link(method.output_type()),
        cell(&comment(file, path))
    )
}

#[test]
fn the_page_of_the_api_is_what_the_services_say() {
    let set = set();
    let index = index(&set);
    let mut page = String::from(
        "# The API\n\n\
         gRPC, package `cakes.v1`, with server reflection and `grpc.health.v1`. In JSON fields\n\
         have the names that they have here, and 64-bit numbers are text. Every command of\n\
         `cakes` prints the call that it makes with `-v`.\n\n\
         ```sh\n\
         grpcurl -plaintext 127.0.0.1:7550 list\n\
         grpcurl -plaintext -d @ 127.0.0.1:7550 cakes.v1.SearchService/SubmitSearch < deploy/examples/hippocampus.json\n\
         ```\n\n\
         This page is made from the comments of services and messages.\n\n",
    );
    let (mut roots, mut methods) = (Vec::new(), 0);
    for file in set.file.iter().filter(|file| file.package() == "cakes.v1") {
        for (at, service) in file.service.iter().enumerate() {
            let path = [6, at as i32];
            page += &format!("## {}\n\n{}\n\n", service.name(), comment(file, &path));
            page += "| method | takes | gives | |\n|---|---|---|---|\n";
            for (number, called) in service.method.iter().enumerate() {
                page += &method(file, &[path[0], path[1], 2, number as i32], called);
                roots.extend([called.input_type().to_owned(), called.output_type().to_owned()]);
                methods += 1;
            }
            page += "\n";
        }
    }
    assert!(methods > 30, "{methods}");
    page += "## Messages\n\n";
    let mut shown = BTreeSet::new();
    for name in roots.iter().flat_map(|root| reachable(root, &index)) {
        if shown.insert(name.clone()) {
            page += &section(&name, &index[&name], &index);
        }
    }
    same("api.md", &format!("{}\n", page.trim_end()));
}

#[test]
fn everything_on_the_wire_is_explained() {
    let set = set();
    let index = index(&set);
    let mut silent = Vec::new();
    for (name, named) in &index {
        let count = match &named.kind {
            Kind::Message(message) if message.options.as_ref().is_some_and(|options| options.map_entry()) => {
                0
            }
            Kind::Message(message) => message.field.len(),
            Kind::Enum(values) => values.value.len(),
        };
        for at in 0..count {
            if comment(named.file, &[named.path.as_slice(), &[2, at as i32]].concat()).is_empty() {
                silent.push(format!("{} field {at}", short(name)));
            }
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}
