//! A child process under ptrace: brought to the instruction after a given number of steps, killed or stopped there.
//!
//! The thread that starts a child is its tracer, so all of this stays on one thread.

use crate::child::{self, said_at};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What a breakpoint costs against a single step: it is set, run to, taken out and stepped over.
const BREAKPOINT_COST: usize = 4;
/// Long enough for a child that continues to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a program stands: in this executable by its place in the file's image, elsewhere by its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    /// An address less the one at which the executable was loaded.
    Here(u64),
    /// In the system's libraries.
    Elsewhere(u64),
}

/// A child, whatever becomes of it: killed at the latest when this is dropped.
struct Process(Pid);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let deadline = Instant::now() + PATIENCE;
        // Stops that it made before may be told first.
        while matches!(waitpid(self.0, None), Ok(WaitStatus::Stopped(..))) && Instant::now() < deadline {}
    }
}

/// A child that has reached its start marker, or a later instruction.
pub struct Traced {
    process: Process,
    image: Range<u64>,
    /// The memory of the child, as a file.
    memory: File,
}

/// What a step led to.
#[derive(PartialEq, Eq, Debug)]
pub enum Step {
    /// The next instruction.
    Next,
    /// The child's operation is over.
    Over,
}

/// One instruction of the reference run.
pub struct Instruction {
    /// Where it lies.
    pub place: Place,
    /// Whether it changed the channel's file, or is a system call.
    pub has_effect: bool,
}

/// What the child does when nobody interferes.
pub struct Reference {
    /// Its instructions from the start marker on.
    pub instructions: Vec<Instruction>,
    /// How many of them come before the child says that it is half done, if it does.
    pub halfway: Option<usize>,
    /// For each number of steps, the number of steps to run to a breakpoint first, and how often it is passed.
    plan: Vec<(usize, usize)>,
}

fn refused(what: &str, error: impl std::fmt::Display) -> String {
    format!(
        "ptrace is refused on this machine ({what}: {error}). This test steps a child process through every \
         instruction of an operation and can show nothing without. Allow ptrace to this user; in a container that \
         is its seccomp profile or `--cap-add=SYS_PTRACE`."
    )
}

/// The addresses at which this executable lies in a process.
pub fn image(pid: impl std::fmt::Display) -> io::Result<Range<u64>> {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut image: Option<Range<u64>> = None;
    for line in maps.lines().filter(|line| line.ends_with(&*exe.to_string_lossy())) {
        let addresses = line.split_whitespace().next().and_then(|field| field.split_once('-'));
        let (from, to) = addresses.ok_or_else(|| io::Error::other("a line of the maps without addresses"))?;
        let parse = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
        let (from, to) = (parse(from)?, parse(to)?);
        image = Some(image.map_or(from..to, |range| range.start.min(from)..range.end.max(to)));
    }
    image.ok_or_else(|| io::Error::other("the executable is not mapped"))
}

impl Traced {
    /// Starts this executable as a child that does `act` on the channel at `file`, and runs it to its start marker.
    pub fn start(act: &str, file: &Path) -> Result<Self, String> {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(exe);
        command.env_clear().env(child::ACT, act).env(child::FILE, file);
        // Copying and clearing by the CPU's string instructions would be one step for each byte.
        let tunables = "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000";
        command.env("GLIBC_TUNABLES", tunables).stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: both are single system calls, which allocate nothing and take no lock.
        unsafe {
            command.pre_exec(|| {
                // Where this is refused, addresses differ from run to run, which is taken into account.
                libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
                ptrace::traceme().map_err(io::Error::from)
            });
        }
        let spawned = command.spawn().map_err(|e| refused("starting a child that asks for it", e))?;
        let process = Process(Pid::from_raw(spawned.id() as i32));
        let pid = process.0;
        match waitpid(pid, None) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            other => return Err(refused("waiting for the child's first stop", format!("{other:?}"))),
        }
        let options = ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).map_err(|e| refused("setting the options", e))?;
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.map_err(|e| refused("opening the child's memory", e))?;
        let image = image(pid).map_err(|e| refused("reading the child's maps", e))?;
        let traced = Self { process, image, memory };
        ptrace::cont(pid, None).map_err(|e| refused("continuing", e))?;
        match traced.wait() {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(traced),
            other => Err(format!("the child that was to do `{act}` did not get to its start: {other:?}")),
        }
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.process.0, None).unwrap_or_else(|e| panic!("{}", refused("waiting", e)))
    }

    fn ip(&self) -> u64 {
        ptrace::getregs(self.process.0).unwrap_or_else(|e| panic!("{}", refused("reading registers", e))).rip
    }

    /// Where the child stands.
    fn place(&self) -> Place {
        self.place_of(self.ip())
    }

    fn place_of(&self, ip: u64) -> Place {
        if self.image.contains(&ip) { Place::Here(ip - self.image.start) } else { Place::Elsewhere(ip) }
    }

    fn is_system_call(&self, ip: u64) -> bool {
        let mut code = [0; 2];
        self.memory.read_exact_at(&mut code, ip).is_ok() && code == [0x0f, 0x05]
    }

    /// Goes one instruction on.
    pub fn step(&self) -> Step {
        ptrace::step(self.process.0, None).unwrap_or_else(|e| panic!("{}", refused("stepping", e)));
        self.stepped()
    }

    fn stepped(&self) -> Step {
        match self.wait() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Step::Next,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Step::Over,
            other => panic!("the child ended instead of stepping: {other:?}"),
        }
    }

    /// Steps to the end marker, and asks after each step whether the channel's file is another now.
    pub fn reference(&self, mut changed: impl FnMut() -> bool) -> Reference {
        let halfway_at = Place::Here(child::halfway as *const () as u64 - own_image().start);
        let (mut instructions, mut halfway) = (Vec::new(), None);
        let mut system_calls = HashMap::new();
        changed();
        loop {
            let ip = self.ip();
            let place = self.place_of(ip);
            if place == halfway_at {
                halfway = Some(instructions.len());
            }
            let is_system_call = *system_calls.entry(ip).or_insert_with(|| self.is_system_call(ip));
            let over = self.step() == Step::Over;
            instructions.push(Instruction { place, has_effect: changed() || is_system_call });
            if over {
                let plan = plan(&instructions);
                return Reference { instructions, halfway, plan };
            }
        }
    }

    /// Brings a child from its start marker to `steps` instructions after it. False if it took another way than the
    /// reference run, or came to its end.
    pub fn advance(&self, reference: &Reference, steps: usize) -> bool {
        let (first, passes) = reference.plan[steps];
        if passes > 0 && !self.run_to(reference.instructions[first].place, passes) {
            return false;
        }
        let rest = if passes > 0 { steps - first } else { steps };
        for _ in 0..rest {
            if self.step() == Step::Over {
                return false;
            }
        }
        match reference.instructions.get(steps).map(|i| i.place) {
            Some(here @ Place::Here(_)) => self.place() == here,
            _ => true,
        }
    }

    /// Runs a child from its start marker to the first time that it comes to an instruction of the reference run. False
    /// if it does not come there.
    pub fn advance_to(&self, reference: &Reference, instruction: usize) -> bool {
        reference.instructions.get(instruction).is_some_and(|i| self.run_to(i.place, 1))
    }

    /// Steps a child from its start marker, without looking where it goes.
    pub fn advance_blindly(&self, steps: usize) {
        for _ in 0..steps {
            if self.step() == Step::Over {
                return;
            }
        }
    }

    /// Runs until the child has come to `place` for the `passes`th time; where it stands counts.
    fn run_to(&self, place: Place, mut passes: usize) -> bool {
        let Place::Here(at) = place else { return false };
        let at = self.image.start + at;
        let mut code = [0];
        self.memory.read_exact_at(&mut code, at).expect("the code of the child can be read");
        loop {
            while self.ip() == at {
                passes -= 1;
                if passes == 0 {
                    return true;
                }
                if self.step() == Step::Over {
                    return false;
                }
            }
            self.memory.write_all_at(&[0xcc], at).expect("the code of the child can be written");
            ptrace::cont(self.process.0, None).unwrap_or_else(|e| panic!("{}", refused("continuing", e)));
            let stop = self.stepped();
            self.memory.write_all_at(&code, at).expect("the code of the child can be written");
            let mut registers = ptrace::getregs(self.process.0).expect("registers can be read");
            if stop == Step::Over || registers.rip != at + 1 {
                return false;
            }
            registers.rip = at;
            ptrace::setregs(self.process.0, registers).expect("registers can be written");
        }
    }

    /// Kills the child where it stands. It may not be dead yet when this returns.
    pub fn kill(self) -> Ended {
        kill(self.process.0, Signal::SIGKILL).expect("the child can be killed");
        Ended(self.process)
    }

    /// Leaves the child where it stands, stopped as by SIGSTOP, and no longer traced.
    pub fn stop(self) -> Stopped {
        let pid = self.process.0;
        ptrace::detach(pid, Some(Signal::SIGSTOP)).unwrap_or_else(|e| panic!("{}", refused("detaching", e)));
        let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED));
        assert_eq!(status, Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)), "the child did not stop");
        Stopped(self.process)
    }
}

/// A child that was killed.
pub struct Ended(Process);

impl Ended {
    /// Waits until it is dead.
    pub fn wait(self) {
        drop(self.0);
    }
}

/// A child that was stopped in its operation.
pub struct Stopped(Process);

impl Stopped {
    /// Lets it go on; when it is done, what it says about its operation.
    pub fn resume(self, file: &Path, mut meanwhile: impl FnMut()) -> Result<String, String> {
        let _ = std::fs::remove_file(said_at(file));
        let deadline = Instant::now() + PATIENCE;
        let pid = self.0.0;
        loop {
            kill(pid, Signal::SIGCONT).map_err(|e| e.to_string())?;
            match waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    // Its number may be another's by now.
                    std::mem::forget(self.0);
                    if code != 0 {
                        return Err(format!("a child that was stopped and continued ended with code {code}"));
                    }
                    break;
                }
                Ok(WaitStatus::StillAlive) if Instant::now() < deadline => {
                    // It may wait for room that others make.
                    meanwhile();
                    std::thread::sleep(Duration::from_micros(200));
                }
                // The end marker.
                Ok(WaitStatus::Stopped(..)) => {}
                other => return Err(format!("a child that was stopped and continued did not end well: {other:?}")),
            }
        }
        std::fs::read_to_string(said_at(file)).map_err(|e| format!("the child left no result: {e}"))
    }
}

/// The addresses of this executable in this process.
pub fn own_image() -> Range<u64> {
    image("self").expect("this process knows where its executable lies")
}

/// How to come to each instruction the quickest way: single steps, or a breakpoint that is passed a few times and then
/// single steps.
fn plan(instructions: &[Instruction]) -> Vec<(usize, usize)> {
    let mut seen = HashMap::new();
    let mut plan = Vec::with_capacity(instructions.len() + 1);
    let mut best = (0, 0, 0);
    for (steps, instruction) in instructions.iter().enumerate() {
        let passes: &mut usize = seen.entry(instruction.place).or_default();
        *passes += 1;
        let cost = BREAKPOINT_COST * *passes;
        if matches!(instruction.place, Place::Here(_)) && cost < best.0 {
            best = (cost, steps, *passes);
        }
        plan.push((best.1, best.2));
        best.0 += 1;
    }
    plan.push((best.1, best.2));
    plan
}
