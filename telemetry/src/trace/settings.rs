//! Where traces go and which: the variables that all of OpenTelemetry's programs know.

use std::path::PathBuf;
use std::time::Duration;

use cakes_tls::client::ClientFiles;
use opentelemetry_sdk::trace::Sampler;
use tonic::transport::Endpoint;

/// Longest time for one export.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who makes the spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unless `OTEL_SERVICE_NAME` says another.
    pub name: &'static str,
    pub version: &'static str,
    /// Tells it from others of that name.
    pub instance: String,
}

/// A variable that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name}: {problem}")]
pub struct SettingsError {
    pub name: &'static str,
    pub problem: String,
}

/// How traces are exported.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) endpoint: Endpoint,
    pub(super) files: ClientFiles,
    pub(super) sampler: Sampler,
    pub(super) batch: Batch,
}

/// How spans are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Spans that may wait; more are dropped.
    pub queue_max: usize,
    /// Spans of one export at most.
    pub spans_max: usize,
    /// Longest wait for more.
    pub delay: Duration,
    /// For an export with everything that is tried again.
    pub timeout: Duration,
}

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const CERTIFICATES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CLIENT_CERTIFICATES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const CLIENT_KEYS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];

impl Settings {
    /// From this process's environment; `endpoint` is the program's own setting, which outweighs
    /// it. None where no traces are wanted.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn from_environment(endpoint: Option<&str>) -> Result<Option<Self>, SettingsError> {
        Settings::read(endpoint, |name| std::env::var(name).ok())
    }

    /// The same from variables that are somewhere else.
    ///
    /// # Errors
    /// As above.
    pub fn read(
        endpoint: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, SettingsError> {
        // One that is empty counts as unset.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| variable(name).map(|value| (name, value)))
        };
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let given = match endpoint {
            Some("off") => return Ok(None),
            Some(url) => Some(("--otlp-endpoint", url.to_owned())),
            None => first(ENDPOINTS),
        };
        let Some((name, url)) = given else { return Ok(None) };
        match variable("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => {
                return Err(wrong(
                    "OTEL_TRACES_EXPORTER",
                    format!("'{other}' is not supported; write otlp or none"),
                ));
            }
        }
        if let Some((name, protocol)) = first(PROTOCOLS).filter(|(_, protocol)| protocol != "grpc") {
            let problem = format!(
                "'{protocol}' is not spoken; write grpc and give the collector's port for that, mostly 4317"
            );
            return Err(wrong(name, problem));
        }
        let path = |names| first(names).map(|(_, path)| PathBuf::from(path));
        let files = ClientFiles {
            ca: path(CERTIFICATES),
            certificate: path(CLIENT_CERTIFICATES),
            key: path(CLIENT_KEYS),
        };
        Ok(Some(Settings {
            endpoint: collector(name, &url)?,
            files,
            sampler: sampler(
                variable("OTEL_TRACES_SAMPLER").as_deref(),
                variable("OTEL_TRACES_SAMPLER_ARG").as_deref(),
            )?,
            batch: batch(&variable)?,
        }))
    }
}

fn wrong(name: &'static str, problem: impl Into<String>) -> SettingsError {
    SettingsError { name, problem: problem.into() }
}

fn collector(name: &'static str, url: &str) -> Result<Endpoint, SettingsError> {
    let remedy = "write http://HOST:4317, https://HOST:4317 or off";
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(wrong(name, format!("'{url}' has no scheme; {remedy}")));
    }
    let endpoint = Endpoint::from_shared(url.to_owned());
    let endpoint = endpoint.map_err(|error| wrong(name, format!("'{url}' is no URL ({error}); {remedy}")))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT))
}

/// By the names that the specification gives them. Whoever calls with a decision is obeyed
/// unless something else is said.
fn sampler(name: Option<&str>, argument: Option<&str>) -> Result<Sampler, SettingsError> {
    let ratio = || {
        let text = argument.unwrap_or("1");
        let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Sampler::TraceIdRatioBased).ok_or_else(|| {
            wrong("OTEL_TRACES_SAMPLER_ARG", format!("'{text}' is no share; write a number from 0 to 1"))
        })
    };
    let by_parent = |root: Sampler| Sampler::ParentBased(Box::new(root));
    Ok(match name.unwrap_or("parentbased_always_on") {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => ratio()?,
        "parentbased_always_on" => by_parent(Sampler::AlwaysOn),
        "parentbased_always_off" => by_parent(Sampler::AlwaysOff),
        "parentbased_traceidratio" => by_parent(ratio()?),
        other => {
            let problem = format!(
                "'{other}' is not supported; write always_on, always_off or traceidratio, or one of them behind parentbased_"
            );
            return Err(wrong("OTEL_TRACES_SAMPLER", problem));
        }
    })
}

fn batch(variable: &impl Fn(&str) -> Option<String>) -> Result<Batch, SettingsError> {
    let number = |name: &'static str, default: u64| match variable(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|number| (1..=1_000_000).contains(number))
            .ok_or_else(|| wrong(name, format!("'{text}' is no number from 1 to 1000000"))),
    };
    let queue_max = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?;
    Ok(Batch {
        queue_max: queue_max as usize,
        spans_max: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?.min(queue_max) as usize,
        delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5000)?),
        timeout: Duration::from_millis(number("OTEL_BSP_EXPORT_TIMEOUT", 30_000)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(own: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Settings>, SettingsError> {
        Settings::read(own, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unless_it_is_said_where() {
        let somewhere = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        assert!(read(None, &[]).unwrap().is_none());
        assert!(read(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap().is_none());
        assert!(read(None, &[somewhere]).unwrap().is_some());
        assert!(read(Some("http://127.0.0.1:4317"), &[]).unwrap().is_some());
        assert!(read(Some("off"), &[somewhere]).unwrap().is_none());
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert!(read(Some("http://127.0.0.1:4317"), &[somewhere, off]).unwrap().is_none(), "{off:?}");
        }
    }

    #[test]
    fn the_nearer_setting_counts() {
        let [both, traces] = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), (ENDPOINTS[0], "http://b:2")];
        let uri = |own, variables: &[_]| read(own, variables).unwrap().unwrap().endpoint.uri().to_string();
        assert_eq!(uri(None, &[both]), "http://a:1/");
        assert_eq!(uri(None, &[both, traces]), "http://b:2/");
        assert_eq!(uri(Some("https://c:3"), &[both, traces]), "https://c:3/");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let to = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1");
        for wrong in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "a:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ] {
            let error = read(None, &[wrong, to]).unwrap_err();
            assert_eq!(error.name, wrong.0, "{error}");
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let error = read(None, &[to, ratio, ("OTEL_TRACES_SAMPLER_ARG", "7")]).unwrap_err();
        assert_eq!(error.name, "OTEL_TRACES_SAMPLER_ARG");
        assert_eq!(read(Some("a:1"), &[]).unwrap_err().name, "--otlp-endpoint");
    }

    #[test]
    fn samplers_have_the_specification_s_names() {
        let of = |name, argument: Option<&str>| format!("{:?}", sampler(name, argument).unwrap());
        assert_eq!(of(None, None), "ParentBased(AlwaysOn)");
        assert_eq!(of(Some("always_off"), None), "AlwaysOff");
        assert_eq!(of(Some("traceidratio"), Some("0.25")), "TraceIdRatioBased(0.25)");
        assert_eq!(of(Some("parentbased_traceidratio"), None), "ParentBased(TraceIdRatioBased(1.0))");
    }
}
