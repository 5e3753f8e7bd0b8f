//! An error and its causes, on one line.

use std::error::Error;

/// What an error says, and behind it what its causes say.
///
/// Some errors say in their own words what their cause says, others leave it to whoever prints
/// them: what stands there already is not said again.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("the file 'a.toml': {source}")]
        Telling { source: Inner },
        #[error("the file 'a.toml' cannot be used")]
        Silent { source: Inner },
    }

    #[derive(Debug, thiserror::Error)]
    #[error("line 3 is no setting")]
    struct Inner(#[source] std::io::Error);

    fn inner() -> Inner {
        Inner(std::io::Error::other("disk on fire"))
    }

    #[test]
    fn each_cause_is_said_once_whoever_says_it() {
        let telling = chain(&Outer::Telling { source: inner() });
        assert_eq!(telling, "the file 'a.toml': line 3 is no setting: disk on fire");
        let silent = chain(&Outer::Silent { source: inner() });
        assert_eq!(silent, "the file 'a.toml' cannot be used: line 3 is no setting: disk on fire");
    }
}
