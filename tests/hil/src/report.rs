//! Results as `cargo test` prints them, as JSON, and as one page of HTML.
//!
//! Pure. Neither file has a serial number, a MAC address or a host name in it:
//! people send them in.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bench::Board;
use crate::verdict::Verdict;

#[derive(Debug, Serialize)]
pub struct Result {
    pub name: String,
    pub proves: String,
    #[serde(flatten)]
    pub verdict: Verdict,
    pub milliseconds: u64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub suite: String,
    /// Seconds since 1970 by the board's clock, which may never have been set.
    pub unix_time: u64,
    pub board: Board,
    /// The parts that were said to be connected.
    pub expected: Vec<String>,
    pub milliseconds: u64,
    pub results: Vec<Result>,
}

/// What stands behind `test NAME ... `.
pub fn line(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Ok(detail) if detail.is_empty() => "ok".to_owned(),
        Verdict::Ok(detail) => format!("ok ({detail})"),
        Verdict::Failed(_) => "FAILED".to_owned(),
        Verdict::NotProven(_) => "not proven".to_owned(),
    }
}

impl Report {
    pub fn failed(&self) -> usize {
        self.results.iter().filter(|result| matches!(result.verdict, Verdict::Failed(_))).count()
    }

    fn count(&self) -> (usize, usize, usize) {
        let passed = self.results.iter().filter(|result| matches!(result.verdict, Verdict::Ok(_))).count();
        (passed, self.failed(), self.results.len() - passed - self.failed())
    }

    fn summary(&self) -> String {
        let (passed, failed, not_proven) = self.count();
        let word = if failed > 0 { "FAILED" } else { "ok" };
        let seconds = self.milliseconds as f64 / 1000.0;
        format!(
            "test result: {word}. {passed} passed; {failed} failed; {not_proven} not proven; finished in {seconds:.2}s"
        )
    }

    /// The reasons, and the last line.
    pub fn closing(&self) -> String {
        let reasons = |title: &str, pick: fn(&Verdict) -> Option<&str>| {
            let lines: String = self
                .results
                .iter()
                .filter_map(|result| Some(format!("    {}: {}\n", result.name, pick(&result.verdict)?)))
                .collect();
            if lines.is_empty() { lines } else { format!("\n{title}:\n{lines}") }
        };
        let not_proven = reasons("not proven", |verdict| match verdict {
            Verdict::NotProven(why) => Some(why),
            _ => None,
        });
        let failures = reasons("failures", |verdict| match verdict {
            Verdict::Failed(why) => Some(why),
            _ => None,
        });
        format!("{not_proven}{failures}\n{}\n\n", self.summary())
    }

    /// One page without anything from elsewhere; the JSON is in it too.
    pub fn html(&self) -> String {
        let mut rows = String::new();
        for result in &self.results {
            let (class, word, detail) = match &result.verdict {
                Verdict::Ok(detail) => ("ok", "ok", detail),
                Verdict::Failed(why) => ("failed", "FAILED", why),
                Verdict::NotProven(why) => ("open", "not proven", why),
            };
            // Writing into a String cannot fail.
            let _ = writeln!(
                rows,
                "<tr class={class}><td>{}<br><small>{}</small><td>{word}<td>{}<td>{:.1} s",
                escape(&result.name.replace('_', " ")),
                escape(&result.proves),
                escape(detail),
                result.milliseconds as f64 / 1000.0
            );
        }
        let facts: String = self
            .board
            .facts()
            .into_iter()
            .map(|(name, value)| format!("<tr><th>{name}<td>{}\n", escape(&value)))
            .collect();
        let warning = match &self.board.emulated {
            Some(why) => format!("<p class=failed>This was no real board: {}.</p>\n", escape(why)),
            None => String::new(),
        };
        // A script element ends at the first `</`, whatever stands around it.
        let json = serde_json::to_string(self).unwrap_or_default().replace("</", "<\\/");
        format!(
            "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\n\
             <title>Rootstock on a {model}</title>\n<style>\n\
             body{{font:16px/1.4 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\n\
             table{{border-collapse:collapse;width:100%;margin:1em 0}}td,th{{border-bottom:1px solid #ccc;padding:.4em;\
             text-align:left;vertical-align:top}}\nsmall{{color:#666}}.ok td:nth-child(2){{color:#060}}\
             .failed td:nth-child(2),p.failed{{color:#b00;font-weight:bold}}.open td:nth-child(2){{color:#850}}\n\
             </style>\n<h1>Rootstock on a {model}</h1>\n{warning}<p><b>{summary}</b></p>\n<table>\n{facts}</table>\n\
             <table>\n<tr><th>Test<th>Result<th>What was seen<th>Time\n{rows}</table>\n\
             <p><small>No serial number, MAC address or host name is in this file.</small></p>\n\
             <script type=application/json id=results>{json}</script>\n</html>\n",
            model = escape(&self.board.model),
            summary = escape(&self.summary()),
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: Vec<Verdict>) -> Report {
        let result = |(index, verdict)| Result {
            name: format!("test_{index}"),
            proves: "something".to_owned(),
            verdict,
            milliseconds: 100,
        };
        Report {
            suite: "rootstock-hil 0".to_owned(),
            unix_time: 0,
            board: Board { model: "Pi <3>".to_owned(), ..Board::default() },
            expected: vec!["display".to_owned()],
            milliseconds: 1234,
            results: verdicts.into_iter().enumerate().map(result).collect(),
        }
    }

    #[test]
    fn the_last_line_is_as_cargos_with_what_was_not_proven() {
        let report = report(vec![
            Verdict::Ok("fast".into()),
            Verdict::Failed("no answer".into()),
            Verdict::NotProven("no wire".into()),
        ]);
        let text = report.closing();
        assert!(text.contains("not proven:\n    test_2: no wire\n\nfailures:\n    test_1: no answer\n"), "{text}");
        assert!(
            text.ends_with("\ntest result: FAILED. 1 passed; 1 failed; 1 not proven; finished in 1.23s\n\n"),
            "{text}"
        );
        assert_eq!(line(&report.results[0].verdict), "ok (fast)");
    }

    #[test]
    fn nothing_failed_is_ok_even_if_nothing_is_proven() {
        let report = report(vec![Verdict::NotProven("no board".into())]);
        assert!(report.closing().contains("test result: ok. 0 passed; 0 failed; 1 not proven;"));
        assert_eq!(report.failed(), 0);
    }

    #[test]
    fn the_page_is_whole_and_what_a_board_says_cannot_break_out_of_it() {
        let page = report(vec![Verdict::Failed("</script><b>".into())]).html();
        assert!(page.contains("Pi &lt;3&gt;") && page.contains("&lt;/script&gt;&lt;b&gt;"));
        assert_eq!(page.matches("</script>").count(), 1);
        assert!(!page.contains("http"), "nothing from elsewhere");
        let (_, rest) = page.split_once("id=results>").unwrap();
        let json: serde_json::Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(json["results"][0]["verdict"], "failed");
        assert_eq!(json["results"][0]["detail"], "</script><b>");
    }
}
