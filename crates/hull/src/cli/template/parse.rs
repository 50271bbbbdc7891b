//! From words to nodes.

use super::TemplateError;
use super::function::Function;
use super::lex::{Token, TokenKind};
use crate::cli::value::Value;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    /// Print what the pipeline gives, unless it only sets a variable.
    Action(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        list: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Variables that get the result.
    pub(super) variables: Vec<String>,
    /// They are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// One word of a command.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) kind: OperandKind,
    /// Bytes before it in the template, for messages.
    pub(super) start: usize,
}

#[derive(Debug)]
pub(super) enum OperandKind {
    Literal(Value),
    /// The current value, then these fields of it.
    Fields(Vec<String>),
    Variable(String, Vec<String>),
    Nested(Box<Pipeline>, Vec<String>),
    Function(Function),
}

pub(super) fn parse(tokens: Vec<Token>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        tokens: tokens.into_iter().peekable(),
        line: 1,
        range_depth: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        Ended::WithText => Ok(nodes),
        Ended::AtElse => parser.error("unexpected {{else}}"),
        Ended::AtEnd => parser.error("unexpected {{end}}"),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    line: usize,
    range_depth: usize,
}

/// What a list of nodes ended with.
#[derive(PartialEq, Eq)]
enum Ended {
    WithText,
    AtElse,
    AtEnd,
}

impl Parser {
    fn error<T>(&self, reason: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::Parse {
            line: self.line,
            reason: reason.into(),
        })
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.next()?;
        self.line = token.line;
        Some(token)
    }

    fn peek_word(&mut self) -> Option<String> {
        match self.tokens.peek().map(|token| &token.kind) {
            Some(TokenKind::Word(word)) => Some(word.clone()),
            _ => None,
        }
    }

    fn list(&mut self) -> Result<(Vec<Node>, Ended), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(token) = self.next() {
            if let TokenKind::Text(text) = token.kind {
                nodes.push(Node::Text(text));
                continue;
            }
            let word = self.peek_word().unwrap_or_default();
            match word.as_str() {
                "end" => {
                    self.next();
                    self.close()?;
                    return Ok((nodes, Ended::AtEnd));
                }
                "else" => {
                    self.next();
                    return Ok((nodes, Ended::AtElse));
                }
                "if" | "with" | "range" => {
                    self.next();
                    nodes.push(self.block(&word)?);
                }
                "break" | "continue" => {
                    self.next();
                    if self.range_depth == 0 {
                        return self.error(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                    }
                    self.close()?;
                    nodes.push(if word == "break" {
                        Node::Break
                    } else {
                        Node::Continue
                    });
                }
                "define" | "template" | "block" => {
                    return self.error(format!("{{{{{word}}}}} is not supported"));
                }
                _ => {
                    let pipeline = self.pipeline()?;
                    self.close()?;
                    nodes.push(Node::Action(pipeline));
                }
            }
        }
        Ok((nodes, Ended::WithText))
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        match self.next().map(|token| token.kind) {
            Some(TokenKind::Close) => Ok(()),
            Some(kind) => self.error(format!("unexpected {kind:?} in command")),
            None => self.error("unclosed action"),
        }
    }

    fn block(&mut self, word: &str) -> Result<Node, TemplateError> {
        let pipeline = self.pipeline()?;
        self.close()?;
        self.range_depth += usize::from(word == "range");
        let (then, end) = self.list()?;
        self.range_depth -= usize::from(word == "range");
        let otherwise = match end {
            Ended::AtEnd => Vec::new(),
            Ended::WithText => return self.error("unexpected EOF"),
            Ended::AtElse => match self.peek_word().as_deref() {
                Some(next @ ("if" | "with")) if next == word => {
                    self.next();
                    // Its end is ours too.
                    vec![self.block(word)?]
                }
                _ => {
                    self.close()?;
                    let (otherwise, end) = self.list()?;
                    match end {
                        Ended::AtEnd => otherwise,
                        Ended::AtElse => return self.error("expected end; found {{else}}"),
                        Ended::WithText => return self.error("unexpected EOF"),
                    }
                }
            },
        };
        Ok(match word {
            "if" => Node::If {
                condition: pipeline,
                then,
                otherwise,
            },
            "with" => Node::With {
                value: pipeline,
                then,
                otherwise,
            },
            _ => Node::Range {
                list: pipeline,
                body: then,
                otherwise,
            },
        })
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        let (variables, declares) = self.declaration()?;
        let mut commands = vec![self.command()?];
        while self.next_if_sign('|') {
            commands.push(self.command()?);
        }
        if commands[0].is_empty() {
            return self.error("missing value for command");
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    /// `$a :=`, `$a, $b :=` or `$a =`; nothing where the variable is only used.
    fn declaration(&mut self) -> Result<(Vec<String>, bool), TemplateError> {
        let mut ahead = self.tokens.clone();
        let mut variables = Vec::new();
        loop {
            match ahead.next().map(|token| token.kind) {
                Some(TokenKind::Variable(name)) => variables.push(name),
                _ => return Ok((Vec::new(), false)),
            }
            let declares = match ahead.next().map(|token| token.kind) {
                Some(TokenKind::Sign(',')) => continue,
                Some(TokenKind::Declare) => true,
                Some(TokenKind::Assign) => false,
                _ => return Ok((Vec::new(), false)),
            };
            if variables.len() > 2 {
                return self.error("too many declarations in pipeline");
            }
            self.tokens = ahead;
            return Ok((variables, declares));
        }
    }

    fn next_if_sign(&mut self, sign: char) -> bool {
        let found = matches!(self.tokens.peek(), Some(t) if t.kind == TokenKind::Sign(sign));
        if found {
            self.next();
        }
        found
    }

    fn command(&mut self) -> Result<Vec<Operand>, TemplateError> {
        let mut operands = Vec::new();
        loop {
            match self.tokens.peek().map(|token| &token.kind) {
                None => return self.error("unclosed action"),
                Some(TokenKind::Close | TokenKind::Sign('|' | ')')) => return Ok(operands),
                Some(_) => operands.push(self.operand()?),
            }
        }
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let Some(mut token) = self.next() else {
            return self.error("unclosed action");
        };
        let kind = match token.kind {
            TokenKind::Dot => OperandKind::Fields(Vec::new()),
            TokenKind::Field(name) => {
                let rest = self.chain();
                if !rest.is_empty() {
                    // Where Go says that a chain of fields stands.
                    token.start += 1 + name.len();
                }
                let mut fields = vec![name];
                fields.extend(rest);
                OperandKind::Fields(fields)
            }
            TokenKind::Variable(name) => OperandKind::Variable(name, self.chain()),
            TokenKind::String(text) => OperandKind::Literal(Value::String(text)),
            TokenKind::Int(number) => OperandKind::Literal(Value::Int(number)),
            TokenKind::Float(number) => OperandKind::Literal(Value::Float(number)),
            TokenKind::Word(word) => match word.as_str() {
                "true" => OperandKind::Literal(Value::Bool(true)),
                "false" => OperandKind::Literal(Value::Bool(false)),
                "nil" => OperandKind::Literal(Value::Null),
                _ => match Function::named(&word) {
                    Some(function) => OperandKind::Function(function),
                    None => return self.error(format!("function {word:?} not defined")),
                },
            },
            TokenKind::Sign('(') => {
                let nested = self.pipeline()?;
                if !self.next_if_sign(')') {
                    return self.error("unclosed left paren");
                }
                OperandKind::Nested(Box::new(nested), self.chain())
            }
            kind => return self.error(format!("unexpected {kind:?} in operand")),
        };
        Ok(Operand {
            kind,
            start: token.start,
        })
    }

    /// Fields that follow without a blank: `$x.Name.Other`.
    fn chain(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some(Token {
            kind: TokenKind::Field(name),
            spaced: false,
            ..
        }) = self.tokens.peek()
        {
            fields.push(name.clone());
            self.next();
        }
        fields
    }
}
