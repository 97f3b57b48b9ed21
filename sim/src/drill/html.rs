//! The report: one file that needs nothing else and can be sent by mail.
//!
//! Invariant: every text of the story is escaped; no script, nothing loaded from elsewhere. The same
//! story gives the same bytes.
//!
//! Not here: writing it to a disk.

use std::fmt::Write as _;

use super::story::{Story, Who};
use super::svg::picture;
use super::terminal::seconds;

const STYLE: &str = include_str!("report.css");

/// The page.
#[must_use]
pub fn page(story: &Story) -> String {
    let title = escape(&story.title);
    let (class, said) = if story.ok() { ("good", "Everything held") } else { ("bad", "Not everything held") };
    let mut out = String::new();
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>{title}</h1><p class=\"outcome {class}\">{said}</p></header>\n"
    );
    if !story.about.trim().is_empty() {
        let _ = writeln!(out, "<p class=\"about\">{}</p>", escape(story.about.trim()));
    }
    let _ = writeln!(
        out,
        "<p class=\"facts\">seed {} · {} simulated seconds · {} commands</p>",
        story.seed,
        seconds(story.end_ms),
        story.timeline.iter().filter(|entry| entry.who == Who::Operator).count()
    );
    let _ = writeln!(out, "<section>\n<h2>Zones over time</h2>\n{}{LEGEND}</section>", picture(story));
    invariants(&mut out, story);
    timeline(&mut out, story);
    faults(&mut out, story);
    let _ = writeln!(
        out,
        "<section>\n<h2>Play it again</h2>\n<pre><code>{}</code></pre>\n</section>\n</main>\n</body>\n</html>",
        escape(&story.replay)
    );
    out
}

const LEGEND: &str = concat!(
    "<ul class=\"legend\">",
    "<li><i class=\"key up\"></i>up</li><li><i class=\"key degraded\"></i>degraded</li>",
    "<li><i class=\"key island\"></i>island</li><li><i class=\"key down\"></i>down</li>",
    "<li><i class=\"key away\"></i>files with the other zones</li>",
    "<li><i class=\"key claim\"></i>claim</li><li><i class=\"key taken\"></i>claim for another zone</li>",
    "<li><i class=\"key operator\"></i>command</li><li><i class=\"key violation\"></i>violation</li>",
    "</ul>\n"
);

fn invariants(out: &mut String, story: &Story) {
    out.push_str("<section>\n<h2>What must hold</h2>\n<table>\n<thead><tr><th>id</th><th>property</th><th>outcome</th><th>what was seen</th></tr></thead>\n<tbody>\n");
    for verdict in &story.verdicts {
        let (class, said) = if verdict.held { ("good", "held") } else { ("bad", "broken") };
        let _ = write!(
            out,
            "<tr class=\"{class}\"><th>{}</th><td>{}</td><td class=\"outcome\">{said}</td><td>{}",
            escape(&verdict.id),
            escape(&verdict.property),
            escape(&verdict.detail)
        );
        if verdict.violations.len() > 1 {
            out.push_str("<ul>");
            for violation in &verdict.violations {
                let _ = write!(out, "<li>{}</li>", escape(&violation.what));
            }
            out.push_str("</ul>");
        }
        out.push_str("</td></tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

fn timeline(out: &mut String, story: &Story) {
    out.push_str("<section>\n<h2>Timeline</h2>\n<table class=\"timeline\">\n<tbody>\n");
    for entry in &story.timeline {
        let (class, who) = match entry.who {
            Who::Event => ("event", "event"),
            Who::Fault => ("fault", "fault"),
            Who::Operator => ("person", "operator"),
            Who::System => ("system", "cluster"),
            Who::Violation => ("bad", "violation"),
        };
        let _ = writeln!(
            out,
            "<tr class=\"{class}\"><td class=\"at\">{}</td><td class=\"who\">{who}</td><td>{}</td></tr>",
            seconds(entry.at_ms),
            escape(&entry.what)
        );
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

fn faults(out: &mut String, story: &Story) {
    out.push_str("<section>\n<h2>Faults that really happened</h2>\n");
    if story.faults.is_empty() {
        out.push_str("<p>None.</p>\n</section>\n");
        return;
    }
    out.push_str("<table class=\"counts\">\n<tbody>\n");
    for (name, count) in &story.faults {
        let _ = writeln!(out, "<tr><th>{}</th><td>{count}</td></tr>", escape(name));
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

/// Text as it may stand in HTML, in elements and in quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no way to write the others.
            _ if letter.is_control() && letter != '\n' && letter != '\t' => out.push('\u{fffd}'),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::golden::{golden, sample};

    #[test]
    fn the_report_is_as_it_always_was() {
        golden("story.html", &page(&sample(true)));
    }

    #[test]
    fn texts_of_the_story_cannot_break_the_page() {
        let mut story = sample(true);
        for text in [&mut story.title, &mut story.about, &mut story.replay, &mut story.slots[0].name] {
            *text = "</title></svg><script>alert('\"&\u{7}')</script>".to_owned();
        }
        let page = page(&story);
        assert!(!page.contains("<script") && !page.contains('\u{7}'));
        assert!(page.contains("&lt;script&gt;alert(&#39;&quot;&amp;\u{fffd}&#39;)"));
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let page = page(&sample(true));
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
            let name = tag
                .trim_start_matches('/')
                .split(|c: char| c.is_whitespace() || c == '/')
                .next()
                .unwrap_or("");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "</{name}> closes nothing");
            } else if !tag.ends_with('/') && !matches!(name, "!DOCTYPE" | "meta") {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} were never closed");
    }
}
