//! Horizontal bars as SVG. Its colours follow the reader's: light or dark.

use std::fmt::Write as _;

/// Bars that are drawn to the same scale.
#[derive(Debug)]
pub struct Panel {
    /// Above the bars, with the unit.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// A bar.
#[derive(Debug)]
pub struct Bar {
    /// Left of it.
    pub name: &'static str,
    /// Whether it stands out.
    pub ours: bool,
    /// Its length, on the panel's scale.
    pub value: f64,
    /// The value as it is written.
    pub text: String,
}

/// Where bars begin, and how long the longest is, in pixels.
const LEFT: f64 = 120.0;
const LONGEST: f64 = 400.0;
const WIDTH: f64 = 640.0;

/// Heights.
const TITLE: f64 = 44.0;
const BAR: f64 = 26.0;

// A picture in a page sees the reader's preference, but not the page's style.
const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } \
    .note { fill: #59636e } .theirs { fill: #afb8c1 } .ours { fill: #0969da } \
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .note { fill: #9198a1 } .theirs { fill: #656c76 } \
    .ours { fill: #4493f8 } }";

/// The picture. `note` is one line below it.
#[must_use]
pub fn svg(panels: &[Panel], note: &str) -> String {
    let mut body = String::new();
    let mut top = 0.0;
    for panel in panels {
        // Nothing fails that writes to memory.
        let _ =
            writeln!(body, r#"<text class="title" x="8" y="{}">{}</text>"#, top + TITLE - 16.0, escape(&panel.title));
        top += TITLE;
        let most = panel.bars.iter().fold(f64::MIN_POSITIVE, |most, bar| most.max(bar.value));
        for bar in &panel.bars {
            let length = bar.value / most * LONGEST;
            let class = if bar.ours { "ours" } else { "theirs" };
            let middle = top + 14.0;
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\n\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{}\" rx=\"2\"/>\n\
                 <text x=\"{:.1}\" y=\"{middle}\">{}</text>",
                LEFT - 8.0,
                escape(bar.name),
                BAR - 6.0,
                LEFT + length + 8.0,
                escape(&bar.text),
            );
            top += BAR;
        }
    }
    let height = top + 40.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n{body}\
         <text class=\"note\" x=\"8\" y=\"{}\">{}</text>\n</svg>\n",
        top + 24.0,
        escape(note),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_has_the_whole_length() {
        let bar = |value, ours| Bar { name: "a<b", ours, value, text: value.to_string() };
        let panels = [Panel { title: "µs & more".into(), bars: vec![bar(8.0, false), bar(2.0, true)] }];
        let picture = svg(&panels, "note");
        assert!(picture.contains(r#"class="theirs" x="120" y="44" width="400.0""#), "{picture}");
        assert!(picture.contains(r#"class="ours" x="120" y="70" width="100.0""#), "{picture}");
        assert!(picture.contains("a&lt;b") && picture.contains("µs &amp; more"), "{picture}");
    }
}
