//! Cuts a template into text and the words of its actions.

use super::TemplateError;

/// A word, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Bytes before it in the template.
    pub(super) start: usize,
    /// Lines before it and its own.
    pub(super) line: usize,
    /// There is a blank before it, so that it is a word of its own.
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// What stands outside of actions.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$` or `$name`
    Variable(String),
    /// A function or a key word.
    Word(String),
    String(String),
    Int(i64),
    Float(f64),
    /// `|`, `(`, `)`, `,`
    Sign(char),
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

pub(super) fn lex(template: &str) -> Result<Vec<Token>, TemplateError> {
    let mut lexer = Lexer {
        template,
        at: 0,
        tokens: Vec::new(),
    };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    template: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn run(&mut self) -> Result<(), TemplateError> {
        let mut trim_next = false;
        loop {
            let rest = &self.template[self.at..];
            let open = rest.find("{{");
            let mut text = &rest[..open.unwrap_or(rest.len())];
            if trim_next {
                text = text.trim_start();
            }
            if open.is_some_and(|at| trims_before(&rest[at + 2..])) {
                text = text.trim_end();
            }
            if !text.is_empty() {
                self.push(TokenKind::Text(text.to_owned()), self.at, false);
            }
            let Some(open) = open else { return Ok(()) };
            self.at += open + 2;
            if trims_before(&self.template[self.at..]) {
                self.at += 1;
            }
            trim_next = if self.template[self.at..].trim_start().starts_with("/*") {
                self.skip_comment()?
            } else {
                self.action()?
            };
        }
    }

    fn push(&mut self, kind: TokenKind, start: usize, spaced: bool) {
        let line = 1 + self.template[..start].matches('\n').count();
        self.tokens.push(Token {
            kind,
            start,
            line,
            spaced,
        });
    }

    fn error<T>(&self, reason: impl Into<String>) -> Result<T, TemplateError> {
        let line = 1 + self.template[..self.at].matches('\n').count();
        Err(TemplateError::Parse {
            line,
            reason: reason.into(),
        })
    }

    fn skip_comment(&mut self) -> Result<bool, TemplateError> {
        let rest = &self.template[self.at..];
        let Some(end) = rest.find("*/") else {
            return self.error("unclosed comment");
        };
        let after = rest[end + 2..].trim_start();
        let trim = after.starts_with("-}}");
        let Some(close) = rest[end..].find("}}") else {
            return self.error("comment ends before closing delimiter");
        };
        self.at += end + close + 2;
        Ok(trim)
    }

    /// Reads one action to its end; whether the text after it loses its leading blanks.
    fn action(&mut self) -> Result<bool, TemplateError> {
        self.push(TokenKind::Open, self.at, false);
        loop {
            let rest = &self.template[self.at..];
            let trimmed = rest.trim_start();
            let spaced = trimmed.len() < rest.len();
            self.at += rest.len() - trimmed.len();
            if spaced && trimmed.starts_with("-}}") {
                self.push(TokenKind::Close, self.at, spaced);
                self.at += 3;
                return Ok(true);
            }
            if trimmed.starts_with("}}") {
                self.push(TokenKind::Close, self.at, spaced);
                self.at += 2;
                return Ok(false);
            }
            let start = self.at;
            let kind = self.word(trimmed)?;
            self.push(kind, start, spaced);
        }
    }

    fn word(&mut self, rest: &str) -> Result<TokenKind, TemplateError> {
        let name_length = |text: &str| {
            text.find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(text.len())
        };
        let Some(first) = rest.chars().next() else {
            return self.error("unclosed action");
        };
        let (kind, length) = match first {
            '.' => match name_length(&rest[1..]) {
                0 => (TokenKind::Dot, 1),
                length if rest.as_bytes()[1].is_ascii_digit() => self.number(rest, length + 1)?,
                length => (TokenKind::Field(rest[1..=length].to_owned()), length + 1),
            },
            '$' => {
                let length = name_length(&rest[1..]) + 1;
                (TokenKind::Variable(rest[..length].to_owned()), length)
            }
            '"' => self.quoted(rest)?,
            '`' => match rest[1..].find('`') {
                Some(end) => (TokenKind::String(rest[1..=end].to_owned()), end + 2),
                None => return self.error("unterminated raw quoted string"),
            },
            '|' | '(' | ')' | ',' => (TokenKind::Sign(first), 1),
            ':' if rest.starts_with(":=") => (TokenKind::Declare, 2),
            '=' => (TokenKind::Assign, 1),
            '-' | '+' | '0'..='9' => {
                let digits = |c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_';
                let length = rest[1..]
                    .find(digits)
                    .map_or(rest.len(), |length| length + 1);
                self.number(rest, length)?
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = name_length(rest);
                (TokenKind::Word(rest[..length].to_owned()), length)
            }
            c => {
                let code = u32::from(c);
                return self.error(format!("unexpected {c:?} in command U+{code:04X}"));
            }
        };
        self.at += length;
        Ok(kind)
    }

    fn number(&self, rest: &str, length: usize) -> Result<(TokenKind, usize), TemplateError> {
        let text = &rest[..length];
        if let Ok(number) = crate::cli::arguments::parse_int(text) {
            return Ok((TokenKind::Int(number), length));
        }
        match text.parse() {
            Ok(number) => Ok((TokenKind::Float(number), length)),
            Err(_) => self.error(format!("bad number syntax: {text:?}")),
        }
    }

    fn quoted(&self, rest: &str) -> Result<(TokenKind, usize), TemplateError> {
        let mut text = String::new();
        let mut characters = rest.char_indices().skip(1);
        while let Some((index, c)) = characters.next() {
            match c {
                '"' => return Ok((TokenKind::String(text), index + 1)),
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, c @ ('"' | '\\' | '\''))) => text.push(c),
                    _ => return self.error("invalid syntax"),
                },
                '\n' => break,
                c => text.push(c),
            }
        }
        self.error("unterminated quoted string")
    }
}

/// Whether an action that begins with this text takes away the blanks before it.
fn trims_before(action: &str) -> bool {
    action.starts_with('-') && action[1..].starts_with([' ', '\t', '\n', '\r'])
}
