//! A filter, word by word.

use std::fmt::{self, Display};

use super::FilterError;

/// A word and where it begins, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub at: usize,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    And,
    Or,
    Not,
    Open,
    Close,
    Operator(Operator),
    /// A name or a value without quotes.
    Bare(String),
    /// A value, or the key of a map, in quotes.
    Quoted(Quoted),
}

/// What stood between quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub text: String,
    /// Whether a `*` that stands for anything was at its end, which is taken away.
    pub is_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Has,
}

impl Operator {
    const ALL: [(&str, Operator); 7] = [
        // Longer ones first.
        ("!=", Operator::Unequal),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("=", Operator::Equal),
        ("<", Operator::Less),
        (">", Operator::Greater),
        (":", Operator::Has),
    ];

    fn at_the_start_of(text: &str) -> Option<(usize, Operator)> {
        let found = Operator::ALL.into_iter().find(|(sign, _)| text.starts_with(sign));
        found.map(|(sign, operator)| (sign.len(), operator))
    }
}

impl Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_it = Operator::ALL.iter().find(|(_, operator)| operator == self);
        formatter.write_str(of_it.map_or("", |(sign, _)| sign))
    }
}

/// Splits a filter into its words.
///
/// # Errors
/// Quotes that are not closed, or a character that belongs to no word.
pub(super) fn split(text: &str) -> Result<Vec<Word>, FilterError> {
    let mut words: Vec<Word> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text[..text.len() - rest.len()].chars().count() + 1;
        let Some(first) = rest.chars().next() else { return Ok(words) };
        let is_value = matches!(words.last(), Some(Word { what: What::Operator(_), .. }));
        let (length, what) = match first {
            '(' => (1, What::Open),
            ')' => (1, What::Close),
            '"' | '\'' => quoted(rest, first, at)?,
            '-' if !is_value => (1, What::Not),
            _ => match Operator::at_the_start_of(rest) {
                Some((length, operator)) => (length, What::Operator(operator)),
                None => bare(rest, is_value, at)?,
            },
        };
        words.push(Word { at, what });
        rest = &rest[length..];
    }
}

fn quoted(rest: &str, quote: char, at: usize) -> Result<(usize, What), FilterError> {
    let (mut text, mut is_open, mut is_escaped) = (String::new(), false, false);
    for (offset, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => {
                text.push(character);
                is_escaped = false;
                is_open = false;
                continue;
            }
            '\\' => is_escaped = true,
            _ if character == quote => {
                if is_open {
                    text.pop();
                }
                return Ok((offset + quote.len_utf8(), What::Quoted(Quoted { text, is_open })));
            }
            '\0' => {
                let problem = "a NUL character can be in no field".to_owned();
                return Err(FilterError { at, problem });
            }
            _ => text.push(character),
        }
        is_open = character == '*';
    }
    Err(FilterError { at, problem: format!("the {quote} is not closed") })
}

/// A name ends before an operator; a value, which may be a time, only before a space or a
/// parenthesis.
fn bare(rest: &str, is_value: bool, at: usize) -> Result<(usize, What), FilterError> {
    let belongs = |character: char| {
        character.is_alphanumeric() || "_.-/*".contains(character) || (is_value && "+:".contains(character))
    };
    let length = rest.find(|character| !belongs(character)).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(length);
    match behind.chars().next() {
        Some(odd) if word.is_empty() || is_value && !odd.is_whitespace() && !"()".contains(odd) => {
            let problem = format!("'{}' cannot stand here without quotes", odd.escape_default());
            return Err(FilterError { at: at + word.chars().count(), problem });
        }
        _ => {}
    }
    let what = match word {
        "AND" if !is_value => What::And,
        "OR" if !is_value => What::Or,
        "NOT" if !is_value => What::Not,
        _ => What::Bare(word.to_owned()),
    };
    Ok((length, what))
}
