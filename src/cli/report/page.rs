//! One HTML file with everything in it: style, chart library, script and data. It loads nothing from anywhere, and
//! says so to the browser by its content security policy.

use serde::Serialize;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// uPlot 1.6.32 by Leon Sorokin, MIT, as its authors minified it (`scripts/vendor_uplot.sh`).
const CHARTS: &str = include_str!("page/uPlot.iife.min.js");
const CHARTS_STYLE: &str = include_str!("page/uPlot.min.css");
const CHARTS_LICENCE: &str = include_str!("page/uPlot.LICENSE");

/// The page that shows `data`.
pub fn page(data: &impl Serialize) -> String {
    let parts = [
        ("/*style*/", [CHARTS_STYLE, STYLE].join("\n")),
        ("/*charts*/", ["/*\nuPlot\n", CHARTS_LICENCE, "*/\n", CHARTS].concat()),
        ("/*data*/", json(data)),
        ("/*script*/", SCRIPT.to_owned()),
    ];
    let mut page = String::new();
    let mut rest = PAGE;
    for (mark, part) in parts {
        let (before, after) =
            rest.split_once(mark).expect("the page has a place for each part, in this order");
        page.push_str(before);
        page.push_str(&part);
        rest = after;
    }
    page + rest
}

/// JSON that may stand in a page: no text in it can end the element that it stands in, or begin a comment.
pub fn json(data: &impl Serialize) -> String {
    let text = serde_json::to_string(data).expect("no map with keys that are not strings");
    text.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_gets_out_of_the_data() {
        let hostile = "</script><script>alert(1)</script><!-- \u{2028}";
        let page = page(&[hostile]);
        let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<[String; 1]>(data).unwrap(), [hostile]);
        assert!(!data.contains('<') && !data.contains('\u{2028}'));
    }

    /// Every way that a page has to load something: none leads out of it.
    #[test]
    fn the_page_loads_nothing() {
        let page = page(&["data"]);
        for way in ["src=", "@import", "<link", "<iframe", "<img", "<base", "XMLHttpRequest", "import("] {
            assert!(!page.contains(way), "{way}");
        }
        assert_eq!(page.matches("url(").count(), page.matches("url(#").count(), "places in the page itself");
        assert!(page.contains("default-src 'none'"));
        // Addresses that are names: the library's home, and those of SVG.
        let addresses: Vec<&str> = page.match_indices("http").map(|(at, _)| &page[at..at + 22]).collect();
        let known = ["https://github.com/leeo", "http://www.w3.org/2000", "http-equiv=\"Content-Se"];
        for address in addresses {
            assert!(
                known.iter().any(|name| name.starts_with(address)) || address.starts_with("http:\""),
                "{address}"
            );
        }
    }
}
