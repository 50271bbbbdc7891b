//! Reads `WWW-Authenticate`: which proof a server asks for.
//!
//! The grammar of RFC 9110, section 11.6.1, as servers in the wild bend it: several challenges in
//! one header, values with and without quotes, scopes that are lists. What is not understood is
//! passed over; a hostile header costs at most its bounded length.

/// Bytes of one header that are read.
pub const HEADER_BYTES_MAX: usize = 8 << 10;
/// Parameters of one challenge.
const PARAMETERS_MAX: usize = 32;

/// What a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password.
    Basic,
    /// A token, to be got elsewhere.
    Bearer {
        /// Where.
        realm: String,
        /// For which service.
        service: String,
        /// For what; empty: as the caller thinks.
        scope: String,
    },
}

/// The challenges that we can meet, in the order of the header.
pub fn parse(header: &str) -> Vec<Challenge> {
    let header = match header.len() > HEADER_BYTES_MAX {
        true => "",
        false => header,
    };
    let mut reader = Reader { rest: header };
    let mut found = Vec::new();
    while let Some(scheme) = reader.token() {
        let parameters = reader.parameters();
        let value = |name: &str| {
            let fits = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
            parameters.iter().find(fits).map(|(_, value)| value.clone())
        };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => found.push(Challenge::Basic),
            "bearer" => {
                if let Some(realm) = value("realm") {
                    found.push(Challenge::Bearer {
                        realm,
                        service: value("service").unwrap_or_default(),
                        scope: value("scope").unwrap_or_default(),
                    });
                }
            }
            _ => {}
        }
    }
    found
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, what: &[char]) {
        self.rest = self.rest.trim_start_matches(what);
    }

    /// The next word; characters that start none are passed over.
    fn token(&mut self) -> Option<&'a str> {
        loop {
            self.skip(&[' ', '\t', ',']);
            let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
            let (token, rest) = self.rest.split_at(end);
            if !token.is_empty() {
                self.rest = rest;
                return Some(token);
            }
            let mut letters = self.rest.chars();
            letters.next()?;
            self.rest = letters.as_str();
        }
    }

    /// `name=value` pairs up to the next scheme.
    fn parameters(&mut self) -> Vec<(String, String)> {
        let mut parameters = Vec::new();
        loop {
            let before = self.rest;
            self.skip(&[' ', '\t', ',']);
            let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
            let (name, after) = self.rest.split_at(end);
            let after = after.trim_start_matches([' ', '\t']);
            // A word without `=` is the next scheme.
            let Some(after) = after.strip_prefix('=').filter(|_| !name.is_empty()) else {
                self.rest = before;
                return parameters;
            };
            self.rest = after.trim_start_matches([' ', '\t']);
            let value = self.value();
            if parameters.len() < PARAMETERS_MAX {
                parameters.push((name.to_owned(), value));
            }
        }
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', ' ', '\t']).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return value.to_owned();
        };
        let mut value = String::new();
        let mut letters = quoted.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '"' => break,
                '\\' => value.extend(letters.next()),
                _ => value.push(letter),
            }
        }
        self.rest = letters.as_str();
        value
    }
}

fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.to_owned(),
            scope: scope.to_owned(),
        }
    }

    #[test]
    fn challenges_of_the_wild_are_read() {
        let check = |header: &str, expected: &[Challenge]| {
            assert_eq!(parse(header), expected, "{header}");
        };
        check("Basic realm=\"Registry\"", &[Challenge::Basic]);
        check("basic", &[Challenge::Basic]);
        check(
            "Bearer realm=\"https://a.io/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
            &[bearer("https://a.io/t", "s", "repository:a/b:pull,push")],
        );
        check(
            "Bearer realm=https://a.io/t , service = s, Basic realm=\"x, y\"",
            &[bearer("https://a.io/t", "s", ""), Challenge::Basic],
        );
        check("Negotiate, Digest a=b, Basic", &[Challenge::Basic]);
        check("Bearer service=\"s\"", &[]);
        check("Bearer realm=\"a\\\"b", &[bearer("a\"b", "", "")]);
        check("Negotiate abc==, Basic", &[Challenge::Basic]);
    }

    #[test]
    fn nonsense_ends_and_finds_nothing() {
        for header in [
            "",
            ",,,",
            "===",
            "\"",
            "Bearer =",
            "ä ö",
            "Bearer realm",
            "\\",
            "B\u{0}",
        ] {
            assert!(
                parse(header).iter().all(|c| *c == Challenge::Basic),
                "{header}"
            );
        }
        assert_eq!(parse(&"Basic,".repeat(HEADER_BYTES_MAX)), []);
    }

    /// As the fuzz target: what a stranger sends costs no more than what it sent.
    fn check(header: &str, name: &str) {
        let found = parse(header);
        assert!(found.len() <= HEADER_BYTES_MAX, "{name}");
        for challenge in found {
            if let Challenge::Bearer {
                realm,
                service,
                scope,
            } = challenge
            {
                let size = realm.len() + service.len() + scope.len();
                assert!(size <= HEADER_BYTES_MAX, "{name}");
            }
        }
    }

    #[test]
    fn every_input_of_the_corpus_is_challenges_or_none() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !checkout.exists() {
            eprintln!("skip every_input_of_the_corpus_is_challenges_or_none: no checkout here");
            return;
        }
        let corpus = checkout.join("../../fuzz/corpus/challenge");
        let mut replayed = 0;
        for entry in fs::read_dir(corpus).expect("the corpus is there") {
            let path = entry.expect("an input").path();
            let bytes = fs::read(&path).expect("it is read");
            let header = String::from_utf8_lossy(&bytes);
            let name = path.display().to_string();
            check(&header, &name);
            // Cut off anywhere, and with a letter that means something anywhere.
            for (at, _) in header.char_indices() {
                let (before, behind) = header.split_at(at);
                check(before, &name);
                for letter in ["\"", "=", ",", "\\", " "] {
                    check(&format!("{before}{letter}{behind}"), &name);
                }
            }
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus is empty");
    }
}
