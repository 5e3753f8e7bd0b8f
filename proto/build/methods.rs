//! Writes the enum of all methods that a coordinator serves.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;

use tonic_prost_build::FileDescriptorSet;

const PACKAGE: &str = "cakes.v1";

/// Fields that name what a request is about.
const OBJECT_FIELDS: [&str; 4] = ["id", "digest", "architecture_digest", "name"];

/// The field that names whom it is about, beside what.
const WHOM_FIELD: &str = "member";

/// What is served beside the package: name, path, whether answers are a stream.
const OTHERS: [(&str, &str, bool); 4] = [
    ("HealthCheck", "/grpc.health.v1.Health/Check", false),
    ("HealthWatch", "/grpc.health.v1.Health/Watch", true),
    ("Reflection", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
    ("ReflectionAlpha", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true),
];

struct Method {
    variant: String,
    path: String,
    takes_stream: bool,
    streams: bool,
    object_fields: Vec<i32>,
    /// The message of its requests, if it is of the package.
    input: Option<String>,
    doc: String,
}

/// The source of the enum.
///
/// # Errors
/// Two methods have one name.
pub fn generate(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut methods = of_the_package(descriptors);
    methods.extend(OTHERS.map(|(variant, path, streams)| Method {
        variant: variant.to_owned(),
        path: path.to_owned(),
        takes_stream: path.contains("Reflection"),
        streams,
        object_fields: Vec::new(),
        input: None,
        doc: path.trim_start_matches('/').to_owned(),
    }));
    let mut known = BTreeSet::new();
    if let Some(twice) = methods.iter().find(|method| !known.insert(method.variant.as_str())) {
        return Err(format!("two methods are called {}; rename one", twice.variant).into());
    }
    source(&methods)
}

fn of_the_package(descriptors: &FileDescriptorSet) -> Vec<Method> {
    let files = || descriptors.file.iter().filter(|file| file.package() == PACKAGE);
    let object_fields = |input: &str| {
        let mut messages = files().flat_map(|file| &file.message_type);
        let message = messages.find(|message| input.strip_prefix(".cakes.v1.") == Some(message.name()));
        let fields = message.map(|message| message.field.as_slice()).unwrap_or_default();
        let what = fields.iter().find(|field| OBJECT_FIELDS.contains(&field.name()));
        let whom = fields.iter().find(|field| field.name() == WHOM_FIELD);
        what.into_iter().chain(whom).map(|field| field.number()).collect()
    };
    let mut methods = Vec::new();
    for service in files().flat_map(|file| &file.service) {
        for method in &service.method {
            methods.push(Method {
                variant: method.name().to_owned(),
                path: format!("/{PACKAGE}.{}/{}", service.name(), method.name()),
                takes_stream: method.client_streaming(),
                streams: method.server_streaming(),
                object_fields: object_fields(method.input_type()),
                input: method.input_type().strip_prefix(".cakes.v1.").map(str::to_owned),
                doc: format!("{}/{}", service.name(), method.name()),
            });
        }
    }
    methods
}

fn source(methods: &[Method]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "/// Every method that a coordinator serves.")?;
    writeln!(out, "#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]")?;
    writeln!(out, "pub enum Method {{")?;
    for method in methods {
        writeln!(out, "    /// `{}`.\n    {},", method.doc, method.variant)?;
    }
    writeln!(out, "}}\n\nimpl Method {{")?;
    let all: Vec<String> = methods.iter().map(|method| format!("Method::{}", method.variant)).collect();
    writeln!(out, "    /// All of them.\n    pub const ALL: &'static [Method] = &[{}];\n", all.join(", "))?;
    table(
        out,
        "The path of its requests: `/PACKAGE.SERVICE/METHOD`.",
        "path",
        "&'static str",
        methods,
        |method| format!("{:?}", method.path),
    )?;
    table(out, "Its name in records: `cancel_job`.", "name", "&'static str", methods, |method| {
        format!("{:?}", snake_case(&method.variant))
    })?;
    table(out, "Whether its requests are a stream.", "takes_stream", "bool", methods, |method| {
        method.takes_stream.to_string()
    })?;
    table(out, "Whether its answers are a stream.", "streams", "bool", methods, |method| {
        method.streams.to_string()
    })?;
    let doc = "Numbers of the fields of its request that say what, and whom, it is about.";
    table(out, doc, "object_fields", "&'static [u32]", methods, |method| {
        format!("&{:?}", method.object_fields)
    })?;
    writeln!(out, "    /// Whether bytes are a message of its requests.\n    ///")?;
    writeln!(out, "    /// # Errors\n    /// They are not.")?;
    writeln!(out, "    pub fn check(self, message: &[u8]) -> Result<(), ::prost::DecodeError> {{")?;
    writeln!(out, "        use ::prost::Message;\n        match self {{")?;
    for Method { variant, input, .. } in methods {
        let checked = input.as_ref().map(|input| format!("crate::v1::{input}::decode(message).map(drop)"));
        writeln!(out, "            Method::{variant} => {},", checked.as_deref().unwrap_or("Ok(())"))?;
    }
    writeln!(out, "        }}\n    }}\n")?;
    writeln!(out, "    /// The method of a path; none is served under any other.")?;
    writeln!(out, "    pub fn from_path(path: &str) -> Option<Method> {{\n        match path {{")?;
    for method in methods {
        writeln!(out, "            {:?} => Some(Method::{}),", method.path, method.variant)?;
    }
    writeln!(out, "            _ => None,\n        }}\n    }}\n}}")?;
    Ok(text)
}

fn table(
    out: &mut String,
    doc: &str,
    name: &str,
    kind: &str,
    methods: &[Method],
    value: impl Fn(&Method) -> String,
) -> std::fmt::Result {
    writeln!(out, "    /// {doc}\n    pub fn {name}(self) -> {kind} {{\n        match self {{")?;
    for method in methods {
        writeln!(out, "            Method::{} => {},", method.variant, value(method))?;
    }
    writeln!(out, "        }}\n    }}\n")
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
