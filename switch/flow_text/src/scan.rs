//! Words of a flow string that know where they stand.

use crate::ParseError;

/// A piece of the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    pub text: &'a str,
    pub start: usize,
}

impl<'a> Word<'a> {
    pub fn error(self, problem: impl Into<String>) -> ParseError {
        ParseError {
            span: self.start..self.start + self.text.len(),
            word: self.text.into(),
            problem: problem.into(),
            allowed: None,
        }
    }

    pub fn error_allowed(self, problem: impl Into<String>, allowed: impl Into<String>) -> ParseError {
        ParseError { allowed: Some(allowed.into()), ..self.error(problem) }
    }

    pub fn from(self, at: usize) -> Word<'a> {
        Word { text: &self.text[at..], start: self.start + at }
    }

    pub fn to(self, at: usize) -> Word<'a> {
        Word { text: &self.text[..at], start: self.start }
    }

    pub fn trim(self) -> Word<'a> {
        let leading = self.text.len() - self.text.trim_start().len();
        let word = self.from(leading);
        word.to(word.text.trim_end().len())
    }

    /// The parts before and after the first `separator`.
    pub fn split_once(self, separator: &str) -> Option<(Word<'a>, Word<'a>)> {
        let at = self.text.find(separator)?;
        Some((self.to(at), self.from(at + separator.len())))
    }

    /// Without the quotes around it, if there are any.
    pub fn unquoted(self) -> Word<'a> {
        match self.text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
            Some(inner) => Word { text: inner, start: self.start + 1 },
            None => self,
        }
    }
}

/// A word with what follows it: `key`, `key=value`, `key:value` or `key(value)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub key: Word<'a>,
    pub value: Option<Word<'a>>,
    /// What stands between key and value: `=`, `:` or `(`.
    pub separator: Option<char>,
    /// Key, separator and value together.
    pub whole: Word<'a>,
}

/// Takes pairs off the front of a text; they are separated by commas and white space.
pub(crate) struct Pairs<'a> {
    rest: Word<'a>,
}

fn is_gap(c: char) -> bool {
    c == ',' || c.is_ascii_whitespace()
}

impl<'a> Pairs<'a> {
    pub fn new(text: Word<'a>) -> Pairs<'a> {
        Pairs { rest: text }
    }

    /// The next pair. The value of a key for which `takes_rest` holds is the whole rest of the text.
    pub fn next(&mut self, takes_rest: impl Fn(&str) -> bool) -> Result<Option<Pair<'a>>, ParseError> {
        let text = self.rest.text;
        self.rest = self.rest.from(text.find(|c| !is_gap(c)).unwrap_or(text.len()));
        let rest = self.rest;
        if rest.text.is_empty() {
            return Ok(None);
        }
        let key_end = end_of(rest, |c| is_gap(c) || matches!(c, '=' | ':' | '('))?;
        let key = rest.to(key_end);
        let separator = rest.text[key_end..].chars().next().filter(|&c| !is_gap(c));
        let (value, end) = match separator {
            None => (None, key_end),
            Some(_) if takes_rest(key.text) => (Some(rest.from(key_end + 1)), rest.text.len()),
            Some('(') => {
                let inside = rest.from(key_end + 1);
                let end = closing(inside).ok_or_else(|| rest.error("`(` without `)`"))?;
                (Some(inside.to(end)), key_end + 1 + end + 1)
            }
            Some(_) => {
                let inside = rest.from(key_end + 1);
                let end = end_of(inside, is_gap)?;
                (Some(inside.to(end)), key_end + 1 + end)
            }
        };
        self.rest = rest.from(end);
        Ok(Some(Pair { key, value, separator, whole: rest.to(end) }))
    }
}

/// Where a word ends: at the first character for which `stop` holds, outside quotes and parentheses.
fn end_of(word: Word<'_>, stop: impl Fn(char) -> bool) -> Result<usize, ParseError> {
    let (mut depth, mut quoted) = (0usize, false);
    for (at, c) in word.text.char_indices() {
        if quoted {
            quoted = c != '"';
        } else if depth == 0 && stop(c) {
            return Ok(at);
        } else {
            match c {
                '"' => quoted = true,
                '(' => depth += 1,
                ')' => depth = depth.checked_sub(1).ok_or_else(|| word.error("`)` without `(`"))?,
                _ => {}
            }
        }
    }
    if quoted {
        return Err(word.error("quote without an end"));
    }
    if depth > 0 {
        return Err(word.error("`(` without `)`"));
    }
    Ok(word.text.len())
}

/// Where the parenthesis that was opened before this text is closed.
fn closing(word: Word<'_>) -> Option<usize> {
    let (mut depth, mut quoted) = (0usize, false);
    for (at, c) in word.text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => return Some(at),
            ')' if !quoted => depth -= 1,
            _ => {}
        }
    }
    None
}
