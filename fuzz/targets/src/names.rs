//! Names and short texts: what is taken is printed as it would be taken again.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use cakes::address::host_and_port;
use cakes::architecture::ArchitectureDigest;
use cakes::kernel::{Kernel, KernelSet};
use cakes::labels::{LABEL_CHARS_MAX, LABELS_MAX, LabelChange, Labels};
use cakes::spec::is_valid_name;
use cakes_coordinator::core::access::{Role, TokenRole};
use cakes_coordinator::core::etag::Etag;
use cakes_coordinator::core::filter::{Filter, JOB_FIELDS, SEARCH_FIELDS};
use cakes_coordinator::core::member::check_name;
use cakes_coordinator::core::project::ProjectName;
use cakes_coordinator::core::spiffe::{Authority, Holder, Name};
use cakes_coordinator::core::webhook::WebhookEvent;
use cakes_coordinator::pki::Host;
use cakes_proto::field_mask::FieldMask;
use cakes_proto::ids::{JobId, Nonce, SearchId, WebhookId, WorkerId};
use cakes_proto::v1;
use cakes_worker::devices::DeviceChoice;
use prost::Message;

use crate::place::is_one_step;
use crate::text;

/// What is taken is the same after it was printed.
fn comes_back<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    let printed = value.to_string();
    let again = printed.parse::<T>().ok();
    assert_eq!(again.as_ref(), Some(&value), "'{text}' is printed as '{printed}'");
    Some(value)
}

/// Every type that is read from one word.
pub fn names(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    comes_back::<Kernel>(text);
    comes_back::<Labels>(text);
    comes_back::<SearchId>(text);
    comes_back::<JobId>(text);
    comes_back::<WebhookId>(text);
    comes_back::<Role>(text);
    comes_back::<TokenRole>(text);
    comes_back::<Authority>(text);
    comes_back::<WebhookEvent>(text);
    comes_back::<Host>(text);
    comes_back::<ArchitectureDigest>(text);
    // These prove something, so there is one way to write each.
    let lower = text.to_ascii_lowercase();
    if let Some(etag) = comes_back::<Etag>(text) {
        assert_eq!(etag.to_string(), lower);
    }
    if let Ok(nonce) = text.parse::<Nonce>() {
        assert_eq!(nonce.to_hex(), lower);
    }
    // These become names of files, folders and keys.
    let worker = comes_back::<WorkerId>(text);
    let name = comes_back::<Name>(text);
    assert_eq!(worker.is_some(), is_valid_name(text));
    assert_eq!(worker.is_some(), name.is_some(), "a worker may be called '{text}', its certificate not");
    if worker.is_some() {
        is_one_step(text);
    }
    if name.is_some() {
        assert_eq!(check_name(text), Ok(()), "a certificate may say '{text}', no member can be called so");
    }
    if let Ok(project) = text.parse::<ProjectName>() {
        assert_eq!(project.as_str(), text);
        is_one_step(text);
    }
    if let Ok(set) = KernelSet::named(text) {
        assert_eq!(set.name(), Some(text));
    }
    // It becomes a word of a command.
    if let Some((host, port)) = host_and_port(text) {
        assert_eq!(host_and_port(&format!("{host}:{port}")), Some((host, port)));
        assert!(!text.starts_with('-') && !text.contains(char::is_whitespace), "'{text}'");
    }
    // Its names are the devices' own.
    let _ = DeviceChoice::parse(text);
}

/// Labels and a change of them, as JSON: `[{"owner": "ada"}, ["keep"]]`.
pub fn labels(bytes: &[u8]) {
    type Change = (BTreeMap<String, String>, Vec<String>);
    let Ok((set, remove)) = serde_json::from_slice::<Change>(bytes) else { return };
    let Ok(labels) = Labels::new(set.clone()) else { return };
    assert!(labels.iter().count() <= LABELS_MAX);
    for (key, value) in labels.iter() {
        assert!((1..=LABEL_CHARS_MAX).contains(&key.len()) && value.len() <= LABEL_CHARS_MAX);
        is_one_step(key);
    }
    assert_eq!(BTreeMap::from(labels.clone()), set);
    let Ok(change) = LabelChange::new(labels.clone(), remove) else { return };
    let once = change.apply(&Labels::default()).expect("as many as are set are few enough");
    assert_eq!(once, labels);
    assert_eq!(change.apply(&once).expect("nothing is added twice"), once);
}

/// The URI of a certificate: one text for one holder, whom one authority may vouch for.
pub fn spiffe(bytes: &[u8]) {
    let Some(uri) = text(bytes) else { return };
    let domain: Name = "cakes".parse().expect("this is a name");
    let Ok(holder) = Holder::from_uri(uri, &domain) else { return };
    assert_eq!(holder.uri(&domain), uri);
    is_one_step(holder.name().as_str());
    let vouches = |signer: &Authority| Holder::certified(&[uri], &domain, *signer).is_ok();
    assert_eq!(Authority::ALL.iter().filter(|signer| vouches(signer)).count(), 1);
    assert!(Holder::certified(&[uri, uri], &domain, holder.authority()).is_err());
}

/// A mask as JSON writes it, a line end, and the search that it is applied to.
pub fn field_mask(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(paths), Some(message)) = (parts.next().and_then(text), parts.next()) else { return };
    let Ok(mask) = serde_json::from_value::<FieldMask>(paths.into()) else { return };
    let printed = serde_json::to_value(&mask).expect("a mask is one text");
    assert_eq!(serde_json::from_value::<FieldMask>(printed).ok(), Some(mask.clone()));
    let Ok(checked) = mask.check("cakes.v1.Search") else { return };
    let Ok(search) = v1::Search::decode(message) else { return };
    // Compared as bytes, since numbers may be none.
    let whole = search.encode_to_vec();
    let kept = checked.apply(search);
    let once = kept.encode_to_vec();
    assert!(once.len() <= whole.len(), "a mask adds nothing");
    assert_eq!(checked.apply(kept).encode_to_vec(), once);
}

/// A filter of lists: whatever its values hold, the path that it becomes has them in strings.
pub fn list_filter(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    for fields in [JOB_FIELDS, SEARCH_FIELDS] {
        let Ok(Some(filter)) = Filter::parse(text, fields) else { continue };
        let outside = without_strings(filter.as_json_path());
        let mut words = outside.split(|character: char| !character.is_ascii_alphabetic());
        assert!(
            words.all(|word| ["", "exists", "starts", "with"].contains(&word)),
            "'{text}' becomes {}",
            filter.as_json_path()
        );
        assert!(
            outside
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || " $.()=!<>&|-".contains(character))
        );
    }
}

/// A path but for its strings, each of which is one of JSON.
fn without_strings(path: &str) -> String {
    let (mut outside, mut rest) = (String::new(), path);
    while let Some(start) = rest.find('"') {
        outside += &rest[..start];
        let mut strings = serde_json::Deserializer::from_str(&rest[start..]).into_iter::<String>();
        assert!(matches!(strings.next(), Some(Ok(_))), "no string begins at {start} of {path}");
        rest = &rest[start + strings.byte_offset()..];
    }
    outside + rest
}
