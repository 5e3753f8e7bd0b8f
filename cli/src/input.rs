//! Files that people write: searches, architectures, backbones.
//!
//! JSON, or YAML where the name ends in `.yaml` or `.yml`. A mistake is named
//! with the path of its field.

use std::io::Read;
use std::path::Path;

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::Backbone;
use cakes::labels::Labels;
use cakes::spec::{CheckedSearch, InvalidSpec};
use cakes_proto::convert::{architecture_from_wire, backbone_from_wire, search_from_wire};
use cakes_proto::v1;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::CommandError;

/// A file's content and how it is written.
pub struct Text {
    pub name: String,
    pub content: String,
    pub is_yaml: bool,
}

impl Text {
    /// Reads a file; `-` is the standard input.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let mut content = String::new();
        if path == Path::new("-") {
            std::io::stdin().read_to_string(&mut content).map_err(|error| CommandError::file(path, error))?;
        } else {
            content = std::fs::read_to_string(path).map_err(|error| CommandError::file(path, error))?;
        }
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let is_yaml = matches!(ending, "yaml" | "yml");
        Ok(Text { name: path.display().to_string(), content, is_yaml })
    }

    fn value(&self) -> Result<Value, CommandError> {
        let fail =
            |problem: String| CommandError::invalid(format!("{}: {}", self.name, first_line(&problem)));
        if self.is_yaml {
            serde_saphyr::from_str(&self.content).map_err(|error| fail(format!("is no YAML: {error}")))
        } else {
            serde_json::from_str(&self.content).map_err(|error| {
                fail(format!("is no JSON: {error}; write JSON, or YAML in a file that ends in .yaml"))
            })
        }
    }

    fn parse<T: DeserializeOwned>(&self, value: &Value) -> Result<T, CommandError> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let problem = error.into_inner().to_string();
            let field = if path == "." { String::new() } else { format!("{path}: ") };
            CommandError::invalid(format!("{}: {field}{problem}", self.name))
        })
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A search file: the request as grpcurl takes it, or the search alone.
///
/// # Errors
/// It cannot be parsed, or everything that is wrong with the search, by field.
pub fn search_file(text: &Text) -> Result<(v1::SubmitSearchRequest, CheckedSearch), CommandError> {
    let value = text.value()?;
    let (request, prefix) = if is_bare_search(&value) {
        (v1::SubmitSearchRequest { search: Some(text.parse(&value)?), ..Default::default() }, "")
    } else {
        (text.parse::<v1::SubmitSearchRequest>(&value)?, "search.")
    };
    Labels::new(request.labels.clone())
        .map_err(|violation| CommandError::invalid(format!("{}: {violation}", text.name)))?;
    let search = search_from_wire(request.search.clone()).map_err(|error| by_field(error, text, prefix))?;
    Ok((request, search))
}

fn by_field(InvalidSpec(found): InvalidSpec, text: &Text, prefix: &str) -> CommandError {
    let line = |violation: cakes::spec::Violation| {
        let prefix = if violation.field == "search" { "" } else { prefix };
        format!("{}: {prefix}{violation}", text.name)
    };
    CommandError::Invalid(found.into_iter().map(line).collect())
}

fn is_bare_search(value: &Value) -> bool {
    ["name", "dataset", "backbone", "patch"].iter().any(|key| value.get(key).is_some())
}

/// A file that describes networks.
pub enum NetworkFile {
    /// What `cakes arch get -o json` prints.
    Architecture(Architecture),
    /// A search: its backbone, search space and patch.
    Search(Box<CheckedSearch>),
    /// A backbone alone: `{"encoder_decoder": {"classes": 3}}`.
    Backbone(Backbone),
}

impl NetworkFile {
    /// Reads an architecture, a search or a backbone, whichever the keys say.
    ///
    /// # Errors
    /// The file is none of these, or wrong.
    pub fn parse(text: &Text) -> Result<Self, CommandError> {
        let value = text.value()?;
        let has = |key: &str| value.get(key).is_some();
        if has("search") || has("dataset") {
            let (_, search) = search_file(text)?;
            Ok(NetworkFile::Search(Box::new(search)))
        } else if has("layers") {
            architecture(text, &value).map(NetworkFile::Architecture)
        } else if has("backbone") || has("encoder_decoder") {
            let backbone = value.get("backbone").unwrap_or(&value);
            let backbone = backbone_from_wire(Some(text.parse(backbone)?))
                .map_err(|violation| CommandError::invalid(format!("{}: {violation}", text.name)))?;
            backbone
                .check()
                .map_err(|error| CommandError::invalid(format!("{}: backbone.{error}", text.name)))?;
            Ok(NetworkFile::Backbone(backbone))
        } else {
            Err(CommandError::invalid(format!(
                "{}: holds no architecture (keys backbone and layers), no search (key search) and no backbone (key encoder_decoder)",
                text.name
            )))
        }
    }
}

/// An architecture as the domain writes it or as the service sends it.
fn architecture(text: &Text, value: &Value) -> Result<Architecture, CommandError> {
    let is_message = ["digest", "cost", "origins", "create_time"].iter().any(|key| value.get(key).is_some());
    if !is_message {
        return text.parse(value);
    }
    let wire: v1::Architecture = text.parse(value)?;
    architecture_from_wire(wire.backbone, wire.layers)
        .map_err(|violation| CommandError::invalid(format!("{}: {violation}", text.name)))
}

/// An extent as people type it: `32x32x48`, or `32` for a cube.
///
/// # Errors
/// Not one or three positive numbers.
pub fn parse_extent(text: &str) -> Result<Extent, String> {
    let sizes: Option<Vec<u32>> =
        text.split('x').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    match sizes.as_deref() {
        Some([size]) => Ok([*size; 3]),
        Some([depth, height, width]) => Ok([*depth, *height, *width]),
        _ => Err(format!("'{text}' is no extent; give DxHxW in voxels, for example 32x32x48")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SEARCH: &str = r#"{"search": {"name": "p", "dataset": {"phantoms": {}},
        "backbone": {"encoder_decoder": {"classes": 4}}, "patch": {"depth": 32, "height": 32, "width": 32}}}"#;

    pub(crate) fn text(content: &str) -> Text {
        Text { name: "x.json".into(), content: content.into(), is_yaml: false }
    }

    fn problems(content: &str) -> Vec<String> {
        search_file(&text(content)).map(drop).expect_err("must be refused").lines()
    }

    #[test]
    fn a_search_alone_and_a_request_are_the_same_search() {
        let (_, wrapped) = search_file(&text(SEARCH)).unwrap();
        let inner = serde_json::from_str::<Value>(SEARCH).unwrap()["search"].to_string();
        let (request, bare) = search_file(&text(&inner)).unwrap();
        assert_eq!(wrapped, bare);
        assert_eq!(request.search.unwrap().name, "p");
        let yaml = "search:\n  name: p\n  dataset: {phantoms: {}}\n  backbone: {encoder_decoder: {classes: 4}}\n  patch: {depth: 32, height: 32, width: 32}\n";
        let yaml = Text { name: "x.yaml".into(), content: yaml.into(), is_yaml: true };
        assert_eq!(search_file(&yaml).unwrap().1, wrapped);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_path_and_the_known_keys() {
        let found = problems(&SEARCH.replace("\"classes\"", "\"clases\""));
        assert!(found[0].contains("search.backbone.encoder_decoder"), "{found:?}");
        assert!(found[0].contains("clases") && found[0].contains("base_width"), "{found:?}");
    }

    #[test]
    fn all_violations_are_listed_with_their_fields() {
        let broken = SEARCH.replace("\"depth\": 32", "\"depth\": 30").replace("\"p\"", "\"P!\"");
        let found = problems(&broken);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("x.json: search.name: "), "{found:?}");
        assert!(found[1].starts_with("x.json: search.patch: "), "{found:?}");
    }

    #[test]
    fn extents_are_three_sizes_or_one() {
        assert_eq!(parse_extent("32x40x48"), Ok([32, 40, 48]));
        assert_eq!(parse_extent("16"), Ok([16; 3]));
        for wrong in ["", "32x32", "0x1x1", "axbxc", "1x2x3x4", "-1"] {
            assert!(parse_extent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_read_as_what_its_keys_say() {
        assert!(matches!(NetworkFile::parse(&text(SEARCH)), Ok(NetworkFile::Search(_))));
        let backbone = r#"{"encoder_decoder": {"classes": 3, "base_width": 8}}"#;
        let Ok(NetworkFile::Backbone(backbone)) = NetworkFile::parse(&text(backbone)) else {
            panic!("no backbone")
        };
        let architecture = Architecture::even(backbone, &[cakes::kernel::Kernel::K333]).unwrap();
        let domain = serde_json::to_string(&architecture).unwrap();
        let wire = serde_json::to_string(&cakes_proto::convert::architecture_to_wire(&architecture)).unwrap();
        for form in [domain, wire] {
            let Ok(NetworkFile::Architecture(read)) = NetworkFile::parse(&text(&form)) else {
                panic!("no architecture: {form}")
            };
            assert_eq!(read.digest(), architecture.digest());
        }
        assert!(NetworkFile::parse(&text("{\"x\": 1}")).is_err());
        assert!(NetworkFile::parse(&text("nonsense")).is_err());
    }
}
