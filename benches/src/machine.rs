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

/// All of it for a file of figures.
#[allow(dead_code, reason = "not every program writes one")]
pub fn facts(dir: &Path) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    vec![
        ("date", run("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
        ("machine", run("uname", &["-m"])),
        ("processor", model.map_or("?", |(_, model)| model).to_string()),
        ("cores", cores.to_string()),
        ("kernel", run("uname", &["-sr"])),
        ("file_system", file_system(dir)),
    ]
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
