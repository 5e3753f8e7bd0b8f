//! Where machines are reached by others.

use std::net::IpAddr;

/// Longest accepted name of a host.
pub const HOST_CHARS_MAX: usize = 200;

/// Whether this is a plain name of a host or an IP address, without a port and brackets.
pub fn is_host(text: &str) -> bool {
    let is_name = (1..=HOST_CHARS_MAX).contains(&text.len())
        // As a word of a command it is no option.
        && !text.starts_with('-')
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-".contains(letter));
    is_name || text.parse::<IpAddr>().is_ok()
}

/// The parts of `host:port`; the port stands behind the last colon, as in `fe80::1:7000`.
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_number = port.bytes().all(|digit| digit.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| is_number && *port > 0)?;
    is_host(host).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_plain_host_and_a_port() {
        for (text, host) in
            [("10.0.0.5:7", "10.0.0.5"), ("gpu-1.lab:7", "gpu-1.lab"), ("fe80::1:7", "fe80::1")]
        {
            assert_eq!(host_and_port(text), Some((host, 7)));
        }
        let long = format!("{}:7", "a".repeat(HOST_CHARS_MAX + 1));
        for wrong in [
            "",
            ":7",
            "gpu-1",
            "gpu-1:",
            "gpu-1:0",
            "gpu-1:+7",
            "gpu-1:70000",
            "gpu 1:7",
            "-x:7",
            "a/b:7",
            "[::1]:7",
            long.as_str(),
        ] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }
}
