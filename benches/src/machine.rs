//! What a run ran on.

use std::path::Path;
use std::process::Command;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map_or(Vec::new(), |output| output.stdout);
    String::from_utf8_lossy(&text).trim().to_string()
}

/// The type of the file system that a directory is on.
pub fn file_system(dir: &Path) -> String {
    let text = run("df", &["--output=fstype", &dir.to_string_lossy()]);
    text.lines().last().unwrap_or("?").to_string()
}

/// One line: when, how many cores, which kernel, and what the files in this directory lie on.
pub fn print(dir: &Path) {
    println!(
        "{}, {} cores, Linux {}, files on {}",
        run("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        std::thread::available_parallelism().map_or(0, |n| n.get()),
        run("uname", &["-rm"]),
        file_system(dir),
    );
}
