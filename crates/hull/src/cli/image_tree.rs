//! `hull images --tree`: each image with its platforms below it, as Docker's client draws it.

use super::format::short_id;
use super::units;
use super::value::Value;

/// Digits of sizes.
const DIGITS: usize = 3;
/// Blanks between columns.
const PADDING: usize = 3;
/// What is to the right of the first column.
const HEADERS: [&str; 4] = ["ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];

/// A line: what it is about, then the columns.
type Row = (String, [String; 4]);

/// Draws images, in the order in which they are given.
pub(super) fn render(images: &[Value]) -> String {
    let rows: Vec<Row> = images.iter().flat_map(rows).collect();
    let header = ("IMAGE".to_owned(), HEADERS.map(str::to_owned));
    let all: Vec<&Row> = std::iter::once(&header).chain(&rows).collect();
    let width = |text: &str| text.chars().count();
    let first = all.iter().map(|row| width(&row.0)).max().unwrap_or(0);
    let widths: [usize; 4] =
        std::array::from_fn(|at| all.iter().map(|row| width(&row.1[at])).max().unwrap_or(0));
    let mut out = String::new();
    for (name, columns) in all {
        let mut line = format!("{name}{}", " ".repeat(first - width(name)));
        for (at, column) in columns.iter().enumerate() {
            let blanks = " ".repeat(widths[at] - width(column));
            let gap = " ".repeat(PADDING);
            // Sizes end at the same place.
            line += &match at {
                1 | 2 => format!("{gap}{blanks}{column}"),
                _ => format!("{gap}{column}{blanks}"),
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn rows(image: &Value) -> Vec<Row> {
    let tags: Vec<&str> = image
        .items(&["RepoTags"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let size = |bytes: i64| units::human_size_with_precision(bytes as f64, DIGITS);
    let platforms: Vec<&Value> = image
        .items(&["Manifests"])
        .iter()
        .filter(|manifest| manifest.text(&["Kind"]) == "image")
        .collect();
    let sum = |path: &[&str]| {
        platforms
            .iter()
            .map(|platform| platform.int(path))
            .sum::<i64>()
    };
    let used = |count: i64| if count > 0 { "U" } else { "" }.to_owned();
    let columns = [
        short_id(image.text(&["Id"])).to_owned(),
        size(sum(&["Size", "Total"])),
        size(sum(&["Size", "Content"])),
        used(image.int(&["Containers"])),
    ];
    let names = match tags.is_empty() {
        true => vec!["<untagged>"],
        false => tags,
    };
    let mut rows: Vec<Row> = names
        .into_iter()
        .map(|name| (name.to_owned(), columns.clone()))
        .collect();
    for (at, platform) in platforms.iter().enumerate() {
        let branch = if at + 1 == platforms.len() {
            "└─"
        } else {
            "├─"
        };
        let part = |name| platform.text(&["ImageData", "Platform", name]);
        let mut name = format!("{branch} {}/{}", part("os"), part("architecture"));
        if !part("variant").is_empty() {
            name = format!("{name}/{}", part("variant"));
        }
        let containers = platform.items(&["ImageData", "Containers"]).len();
        let columns = [
            short_id(platform.text(&["ID"])).to_owned(),
            size(platform.int(&["Size", "Total"])),
            size(platform.int(&["Size", "Content"])),
            used(i64::try_from(containers).unwrap_or_default()),
        ];
        rows.push((name, columns));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_below_their_image() {
        let text = r#"[{"Id":"sha256:0123456789abcdef","RepoTags":["a:1"],"Containers":-1,"Manifests":[
            {"ID":"sha256:fedcba9876543210","Kind":"image","Size":{"Total":3000,"Content":1000},
             "ImageData":{"Platform":{"os":"linux","architecture":"arm64","variant":"v8"}}}]}]"#;
        let images: Vec<Value> = serde_json::from_str(text).expect("JSON");
        assert_eq!(
            render(&images),
            "IMAGE               ID             DISK USAGE   CONTENT SIZE   EXTRA\n\
             a:1                 0123456789ab          3kB            1kB\n\
             └─ linux/arm64/v8   fedcba987654          3kB            1kB\n"
        );
    }
}
