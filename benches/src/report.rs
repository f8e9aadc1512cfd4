//! All figures of a run, in a file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::args::Args;
use crate::machine;

pub struct Report {
    out: PathBuf,
    figures: Map<String, Value>,
}

impl Report {
    pub fn new(args: &Args) -> std::io::Result<Self> {
        std::fs::create_dir_all(&args.out)?;
        let mut figures = Map::new();
        for (name, fact) in machine::facts(&args.dir) {
            figures.insert(name.into(), fact.into());
        }
        let mut command = vec!["benches".to_string()];
        command.extend(std::env::args().skip(1));
        figures.insert("command".into(), command.join(" ").into());
        Ok(Report { out: args.out.clone(), figures })
    }

    /// Adds the figures of a part. What came before is not lost if the next part fails.
    pub fn add(&mut self, part: &str, figures: Value) {
        self.figures.insert(part.into(), figures);
        let text = serde_json::to_string_pretty(&self.figures).unwrap();
        self.write("bench.json", &text);
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.out.join(name);
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("{}: {error}", path.display());
        }
    }

    pub fn out(&self) -> &Path {
        &self.out
    }
}
