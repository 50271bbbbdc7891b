//! Pure: what `iptables-save` says of our chains, and the `iptables-restore` input that brings a
//! table from there to what is wanted.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;

use hull_os::nft::Counted;

use super::plan::{Chain, Line, entry_comment, is_ours};

/// Our part of one table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// Our chains.
    pub(super) chains: Vec<String>,
    /// Rules in our chains, in their order.
    pub(super) rules: Vec<SavedRule>,
    /// Rules that lead from a chain of the kernel to ours: the words after `-A`, and that chain
    /// with the one it leads to.
    entries: Vec<(String, (String, String))>,
}

/// An installed rule of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedRule {
    pub(super) chain: String,
    pub(super) comment: String,
    pub(super) counted: Counted,
}

impl Saved {
    /// Reads what `iptables-save -c -t TABLE` says.
    pub(super) fn parse(text: &str, tag: &str) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next().unwrap_or_default();
                if is_ours(tag, name) {
                    saved.chains.push(name.to_owned());
                }
                continue;
            }
            let Some((counted, rule)) = counted(line) else {
                continue;
            };
            let chain = rule.split(' ').next().unwrap_or_default();
            if is_ours(tag, chain) {
                saved.rules.push(SavedRule {
                    chain: chain.to_owned(),
                    comment: comment(rule).unwrap_or_default(),
                    counted,
                });
            } else if let Some((_, target)) = rule.rsplit_once(" -j ")
                && is_ours(tag, target)
            {
                let from = (chain.to_owned(), target.to_owned());
                saved.entries.push((rule.to_owned(), from));
            }
        }
        saved
    }

    /// What differs from what is wanted of this table, one line each.
    pub(super) fn differences(&self, wanted: &[&Chain]) -> Vec<String> {
        let mut lines = Vec::new();
        for chain in wanted {
            let have: Vec<&str> = self.comments_of(&chain.name).collect();
            for line in chain.lines.iter().filter(|l| !have.contains(&&*l.comment)) {
                lines.push(format!("rule {:?} is missing", line.comment));
            }
            let is_wanted = |c: &&str| chain.lines.iter().any(|line| line.comment == **c);
            for comment in have.iter().copied().filter(|c| !is_wanted(c)) {
                lines.push(format!("rule {comment:?} is not ours"));
            }
            if lines.is_empty() && !have.iter().eq(chain.lines.iter().map(|l| &l.comment)) {
                lines.push(format!("chain {} is not in its order", chain.name));
            }
            if !self.chains.contains(&chain.name) {
                lines.push(format!("chain {} is missing", chain.name));
            }
            if let Some(from) = chain.from
                && !self.has_entry(from, &chain.name)
            {
                lines.push(format!("nothing leads from {from} to {}", chain.name));
            }
        }
        for stale in self.chains.iter().filter(|name| !is_in(wanted, name)) {
            lines.push(format!("chain {stale} belongs to no network"));
        }
        lines
    }

    fn comments_of(&self, chain: &str) -> impl Iterator<Item = &str> {
        let of_chain = self.rules.iter().filter(move |rule| rule.chain == chain);
        of_chain.map(|rule| rule.comment.as_str())
    }

    fn has_entry(&self, from: &str, to: &str) -> bool {
        self.entries
            .iter()
            .any(|(_, (f, t))| (&**f, &**t) == (from, to))
    }

    /// Input of `iptables-restore --noflush --counters` that makes the table as it is wanted, all
    /// of it or nothing. Chains that are declared are emptied first; counters go on.
    pub(super) fn script(&self, table: &str, wanted: &[&Chain], tag: &str) -> String {
        let mut counts: HashMap<&str, VecDeque<Counted>> = HashMap::new();
        for rule in &self.rules {
            let all = counts.entry(&rule.comment).or_default();
            all.push_back(rule.counted);
        }
        let mut text = format!("*{table}\n");
        let mut say = |line: std::fmt::Arguments<'_>| {
            // Into a string nothing fails.
            let _ = text.write_fmt(line);
            text.push('\n');
        };
        let stale = || self.chains.iter().filter(|name| !is_in(wanted, name));
        for name in wanted.iter().map(|chain| &chain.name).chain(stale()) {
            say(format_args!(":{name} - [0:0]"));
        }
        for (rule, (_, to)) in &self.entries {
            if !is_in(wanted, to) {
                say(format_args!("-D {rule}"));
            }
        }
        for chain in wanted {
            for line in &chain.lines {
                let counted = counts.get_mut(&*line.comment).and_then(VecDeque::pop_front);
                let Counted { packets, bytes } = counted.unwrap_or_default();
                let (chain, Line { options, comment }) = (&chain.name, line);
                say(format_args!(
                    "[{packets}:{bytes}] -A {chain} -m comment --comment \"{comment}\" {options}"
                ));
            }
        }
        for chain in wanted {
            if let Some(from) = chain.from
                && !self.has_entry(from, &chain.name)
            {
                let comment = entry_comment(tag);
                say(format_args!(
                    "-I {from} 1 -m comment --comment \"{comment}\" -j {}",
                    chain.name
                ));
            }
        }
        for name in stale() {
            say(format_args!("-X {name}"));
        }
        say(format_args!("COMMIT"));
        text
    }
}

fn is_in(wanted: &[&Chain], name: &str) -> bool {
    wanted.iter().any(|chain| chain.name == name)
}

/// Packets and bytes, and the words after `-A`, of a rule's line.
fn counted(line: &str) -> Option<(Counted, &str)> {
    let (numbers, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, bytes) = numbers.split_once(':')?;
    let counted = Counted {
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    };
    Some((counted, rule))
}

fn comment(rule: &str) -> Option<String> {
    let (_, rest) = rule.split_once("--comment ")?;
    let Some(quoted) = rest.strip_prefix('"') else {
        return rest.split(' ').next().map(str::to_owned);
    };
    let mut text = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return Some(text),
            '\\' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Chain, Line};
    use super::Saved;

    fn chain(lines: &[(&str, &str)]) -> Chain {
        let line = |(options, comment): &(&str, &str)| Line {
            options: (*options).to_owned(),
            comment: (*comment).to_owned(),
        };
        Chain {
            table: "filter",
            name: "hull-forward".to_owned(),
            from: Some("FORWARD"),
            lines: lines.iter().map(line).collect(),
        }
    }

    const SAVED: &str = "# Generated by iptables-save\n*filter\n:FORWARD DROP [1:2]\n\
        :DOCKER - [0:0]\n:hull-forward - [0:0]\n:hull-e-00 - [0:0]\n\
        [9:9] -A FORWARD -j DOCKER\n\
        [0:0] -A FORWARD -m comment --comment \"hull rules\" -j hull-forward\n\
        [3:180] -A hull-forward -o hull0 -m comment --comment \"hull: a\" -j DROP\nCOMMIT\n";

    #[test]
    fn what_is_as_wanted_has_no_differences() {
        let saved = Saved::parse(&SAVED.replace(":hull-e-00 - [0:0]\n", ""), "hull");
        let wanted = chain(&[("-o hull0 -j DROP", "hull: a")]);
        assert_eq!(saved.differences(&[&wanted]), Vec::<String>::new());
    }

    #[test]
    fn a_table_is_brought_to_what_is_wanted_and_counts_on() {
        let saved = Saved::parse(SAVED, "hull");
        let wanted = chain(&[("-o hull0 -j DROP", "hull: a"), ("-j RETURN", "hull: b")]);
        assert_eq!(
            saved.differences(&[&wanted]),
            [
                "rule \"hull: b\" is missing",
                "chain hull-e-00 belongs to no network"
            ]
        );
        assert_eq!(
            saved.script("filter", &[&wanted], "hull"),
            "*filter\n:hull-forward - [0:0]\n:hull-e-00 - [0:0]\n\
             [3:180] -A hull-forward -m comment --comment \"hull: a\" -o hull0 -j DROP\n\
             [0:0] -A hull-forward -m comment --comment \"hull: b\" -j RETURN\n\
             -X hull-e-00\nCOMMIT\n"
        );
    }

    #[test]
    fn nothing_of_ours_is_left_where_nothing_is_wanted() {
        let saved = Saved::parse(SAVED, "hull");
        assert_eq!(
            saved.script("filter", &[], "hull"),
            "*filter\n:hull-forward - [0:0]\n:hull-e-00 - [0:0]\n\
             -D FORWARD -m comment --comment \"hull rules\" -j hull-forward\n\
             -X hull-forward\n-X hull-e-00\nCOMMIT\n"
        );
        let foreign = Saved::parse("*filter\n:FORWARD DROP [1:2]\nCOMMIT\n", "hull");
        assert_eq!(foreign, Saved::default());
    }
}
