//! Programs that run launches outside of this process: with the memory watcher, and under the compiler's sanitizers.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use vcc_cuda_emu::Schedule;
use vcc_ops::launch::{Argument, Launch};

use super::device::{Buffer, Run};

/// A change of a source, to plant a fault: the file, what stands there once, and what shall.
pub(crate) struct Patch {
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// Ways to build the sources.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Fibers and nothing else.
    Plain,
    /// Every access checked and counted.
    Watch,
    /// AddressSanitizer and UndefinedBehaviorSanitizer.
    Address,
    /// ThreadSanitizer, with a thread of the system for every CUDA thread.
    Threads,
}

/// Accesses as the source has them: nothing is taken apart or put together.
const AS_WRITTEN: [&str; 3] = [
    "-fno-tree-sra",
    "-fno-tree-vectorize",
    "-fno-threadsafe-statics",
];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Watch => "watch",
            Self::Address => "address",
            Self::Threads => "threads",
        }
    }

    /// Options for the file with the kernels, for all files, and the files.
    fn recipe(
        self,
    ) -> (
        Vec<&'static str>,
        Vec<&'static str>,
        &'static [&'static str],
    ) {
        match self {
            Self::Plain => (vec![], vec![], &["fibers.cpp", "runner.cpp"]),
            Self::Watch => (
                [&["-fsanitize=thread"][..], &AS_WRITTEN].concat(),
                vec!["-DEMU_WATCH", "-fno-pie", "-no-pie"],
                &["memory.cpp", "fibers.cpp", "runner.cpp"],
            ),
            Self::Address => (
                vec![],
                vec!["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
                &["fibers.cpp", "runner.cpp"],
            ),
            Self::Threads => (
                vec![],
                vec!["-fsanitize=thread", "-Wno-tsan"],
                &["threads.cpp", "runner.cpp"],
            ),
        }
    }

    /// Builds the program, of patched sources if there is a patch. `name` is its own among those of all tests.
    pub(crate) fn build(self, name: &str, patches: &[Patch]) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", self.name()));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vcc-ops/cuda");
        copy(&sources, &folder);
        for patch in patches {
            let file = folder.join(patch.file);
            let text = std::fs::read_to_string(&file).unwrap();
            let (from, found) = (patch.from, text.matches(patch.from).count());
            assert_eq!(found, 1, "{} has {found} times: {from}", patch.file);
            std::fs::write(&file, text.replace(from, patch.to)).unwrap();
        }
        let (kernels, all, files) = self.recipe();
        let emulator = folder.join("emulator");
        let compile = |arguments: &[&str]| {
            let mut compiler = Command::new("g++");
            compiler
                .current_dir(&emulator)
                .args(["-std=c++17", "-O1", "-g1", "-pthread"]);
            compiler.args([
                "-fno-strict-aliasing",
                "-ffp-contract=off",
                "-Wno-unknown-pragmas",
            ]);
            let output = compiler.args(&all).args(arguments).output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        compile(&[&kernels[..], &["-c", "entries.cpp", "-o", "entries.o"]].concat());
        compile(&[&["entries.o"], files, &["-o", "runner"]].concat());
        emulator.join("runner")
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a launch moved: `Traffic` of `memory.h`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sectors: u64,
    pub(crate) distinct_sectors: u64,
    pub(crate) shared_steps: u64,
    pub(crate) shared_least: u64,
}

/// A program and the schedule to run under.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) schedule: Schedule,
    /// Of the launches so far, with the watcher.
    pub(crate) traffic: RefCell<Vec<(String, Traffic)>>,
}

impl Program {
    pub(crate) fn new(path: &Path, schedule: Schedule) -> Self {
        Self {
            path: path.to_path_buf(),
            schedule,
            traffic: RefCell::default(),
        }
    }

    fn describe(&self, buffers: &[Buffer], launches: &[Launch]) -> Vec<u8> {
        let (order, seed) = match self.schedule {
            Schedule::Forward => (0u32, 0u64),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let mut out = vec![];
        let small =
            |out: &mut Vec<u8>, x: usize| out.extend(u32::try_from(x).unwrap().to_le_bytes());
        out.extend(order.to_le_bytes());
        out.extend(seed.to_le_bytes());
        small(&mut out, buffers.len());
        for buffer in buffers {
            out.extend(buffer.pointer().to_le_bytes());
            out.extend((buffer.len as u64).to_le_bytes());
            out.push(u8::from(buffer.filled));
            out.extend(buffer.bytes());
        }
        small(&mut out, launches.len());
        for launch in launches {
            small(&mut out, launch.kernel.len());
            out.extend(launch.kernel.as_bytes());
            let [x, y, z] = launch.grid;
            for number in [x, y, z, launch.block, launch.shared] {
                out.extend(number.to_le_bytes());
            }
            small(&mut out, launch.arguments.len());
            for (argument, address) in launch.arguments.iter().zip(launch.parameters()) {
                let bytes = match argument {
                    Argument::Pointer(pointer) => {
                        out.push(0);
                        out.extend(pointer.to_le_bytes());
                        continue;
                    }
                    Argument::Int(_) | Argument::Float(_) => 4,
                    Argument::Layout(layout) => size_of_val(layout),
                };
                out.push(1);
                small(&mut out, bytes);
                // SAFETY: the address of a value of that size, which has no padding, inside of `launch`.
                out.extend(unsafe { std::slice::from_raw_parts(address.cast::<u8>(), bytes) });
            }
        }
        out
    }
}

/// The program at addresses that are the same each time, where that is allowed: where they are more random than it knows,
/// ThreadSanitizer does not start.
fn command(path: &Path) -> Command {
    static FIXED: LazyLock<bool> = LazyLock::new(|| {
        let tried = Command::new("setarch").args(["-R", "true"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    if !*FIXED {
        return Command::new(path);
    }
    let mut command = Command::new("setarch");
    command.arg("-R").arg(path);
    command
}

impl Run for Program {
    /// Panics with what the program said if it failed.
    fn run(&self, buffers: &mut [Buffer], launches: &[Launch]) {
        let mut command = command(&self.path);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut to, description) = (
            child.stdin.take().unwrap(),
            self.describe(buffers, launches),
        );
        // A program that fails may not read to the end.
        let writer = std::thread::spawn(move || to.write_all(&description));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !said.contains("unexpected memory mapping"),
            "ThreadSanitizer does not start: let `setarch -R` work here, or set vm.mmap_rnd_bits to 28"
        );
        assert!(output.status.success(), "{}: {said}", output.status);
        let mut rest = &output.stdout[..];
        for buffer in buffers {
            let (own, after) = rest.split_at(buffer.len);
            buffer.bytes_mut().copy_from_slice(own);
            rest = after;
        }
        for (launch, numbers) in launches.iter().zip(rest.chunks_exact(48)) {
            let numbers: Vec<u64> = numbers
                .chunks_exact(8)
                .map(|x| u64::from_le_bytes(x.try_into().unwrap()))
                .collect();
            let traffic = Traffic {
                sectors: numbers[0] + numbers[1],
                distinct_sectors: numbers[2] + numbers[3],
                shared_steps: numbers[4],
                shared_least: numbers[5],
            };
            self.traffic
                .borrow_mut()
                .push((launch.kernel.clone(), traffic));
        }
    }
}
