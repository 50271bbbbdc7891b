//! The part of Go's `text/template` that people write after `--format`.
//!
//! ```text
//!   text ──(lex)──> tokens ──(parse)──> nodes ──(execute with a value)──> text
//! ```
//!
//! Fields and variables, pipelines, `if`, `range`, `with`, comparison and boolean functions,
//! `index`, `len`, `slice`, `printf`, `print`, `println`, and those that Docker adds: `json`,
//! `split`, `join`, `title`, `upper`, `lower`, `pad`, `truncate`, `table`. Nested template
//! definitions are not there.

mod execute;
mod function;
mod lex;
mod parse;

use super::value::Value;
use parse::Node;

/// A template that was parsed.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template cannot be used, in Go's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// It is not a template.
    #[error("template: :{line}: {reason}")]
    Parse {
        /// Line in the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// It does not fit to the value.
    #[error("template: :1:{column}: executing \"\" at <{expression}>: {reason}")]
    Execute {
        /// Where in the template, counted in bytes.
        column: usize,
        /// The part of the template.
        expression: String,
        /// What is wrong.
        reason: String,
    },
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Where it is none.
    pub(crate) fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template {
            nodes: parse::parse(lex::lex(text)?)?,
        })
    }

    /// Fills it in.
    ///
    /// # Errors
    /// Where it asks for what the value does not have.
    pub(crate) fn execute(&self, value: &Value) -> Result<String, TemplateError> {
        execute::execute(&self.nodes, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(template: &str) -> Result<String, TemplateError> {
        let json = r#"{"Name":"/web","Id":"0123456789abcdef","N":3,"F":1.5,"On":true,"Off":false,
            "State":{"Running":true,"ExitCode":0},"List":["a","b","c"],"Nil":null,"Cmd":null,
            "Config":{"Labels":{"z":"26","a b":"x"},"Env":["A=1","B=2"]},
            "Ports":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"443/tcp":null}}"#;
        Template::parse(template)?.execute(&serde_json::from_str(json).unwrap())
    }

    fn check(template: &str, expected: &str) {
        assert_eq!(run(template).unwrap(), expected, "{template}");
    }

    #[test]
    fn fields_are_filled_in() {
        check("{{.Name}} {{.State.Running}}", "/web true");
        check("{{ .N }}-{{.F}}", "3-1.5");
        check(
            "{{.List}} {{.State}}",
            "[a b c] map[ExitCode:0 Running:true]",
        );
        check("{{.Nil}}", "<no value>");
        check("{{.Cmd}} {{json .Cmd}}", "[] null");
        check("a{{/* nothing */}}b", "ab");
        check("a {{- .N -}} b", "a3b");
        check("{{.Config.Labels.missing}}", "<no value>");
        check("{{$}}", &run("{{.}}").unwrap());
    }

    #[test]
    fn functions_and_pipelines_compose() {
        check(r#"{{index .Config.Labels "a b"}}"#, "x");
        check("{{index .List 1}}", "b");
        check(r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#, "8080");
        check("{{json .Config.Labels}}", r#"{"z":"26","a b":"x"}"#);
        check("{{.Name | upper | json}}", r#""/WEB""#);
        check(r#"{{join .List ", "}}"#, "a, b, c");
        check(r#"{{range (split "a,b" ",")}}<{{.}}>{{end}}"#, "<a><b>");
        check("{{len .List}} {{len .Name}}", "3 4");
        check(
            r#"{{printf "%s=%d %v %q %5s|%-5s|%05d" .Name .N .On .Name "a" "b" 7}}"#,
            r#"/web=3 true "/web"     a|b    |00007"#,
        );
        check("{{println .N}}", "3\n");
        check("{{slice .Id 0 4}}", "0123");
        check("{{truncate .Id 5}}{{pad .N 1 1}}", "01234 3 ");
    }

    #[test]
    fn conditions_choose() {
        check(
            "{{if .On}}y{{else}}n{{end}}{{if .Off}}y{{else}}n{{end}}",
            "yn",
        );
        check("{{if eq .N 3}}three{{end}}", "three");
        check(
            r#"{{if and .On (ne .Name "x")}}a{{end}}{{if or .Off .On}}b{{end}}"#,
            "ab",
        );
        check(
            "{{if not .Off}}c{{end}}{{if gt .N 2}}d{{end}}{{if le .N 2}}e{{end}}",
            "cd",
        );
        check("{{if .Off}}a{{else if .On}}b{{else}}c{{end}}", "b");
        check(
            "{{with .State}}{{.ExitCode}}{{end}}{{with .Nil}}x{{else}}none{{end}}",
            "0none",
        );
        check("{{if .Health}}h{{else}}no{{end}}", "no");
        check(r#"{{if eq .Name "a" "/web"}}one of{{end}}"#, "one of");
    }

    #[test]
    fn ranges_walk_lists_and_sorted_maps() {
        check("{{range .List}}{{.}},{{end}}", "a,b,c,");
        check("{{range $i, $e := .List}}{{$i}}{{$e}} {{end}}", "0a 1b 2c ");
        check(
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
            "a b=x;z=26;",
        );
        check("{{range .Nil}}x{{else}}empty{{end}}", "empty");
        check(
            "{{range $p, $b := .Ports}}{{$p}}{{range $b}} {{.HostPort}}{{end}};{{end}}",
            "443/tcp;80/tcp 8080;",
        );
        check(
            "{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}",
            "ac",
        );
        check(
            "{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
            "a",
        );
        check("{{$x := .N}}{{range .List}}{{$x}}{{end}}", "333");
        check("{{$x := 1}}{{range .List}}{{$x = .}}{{end}}{{$x}}", "c");
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_go() {
        let error = |template| run(template).unwrap_err().to_string();
        assert_eq!(error("{{.Foo"), "template: :1: unclosed action");
        assert_eq!(
            error("{{.Foo}}"),
            "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""
        );
        assert_eq!(error("{{if .On}}"), "template: :1: unexpected EOF");
        assert_eq!(
            error("{{foo .N}}"),
            "template: :1: function \"foo\" not defined"
        );
        assert!(error("{{.Name.x}}").contains("can't evaluate field x"));
        assert!(error("{{index .List 9}}").contains("index out of range: 9"));
        assert!(error("{{end}}").contains("unexpected {{end}}"));
    }
}
