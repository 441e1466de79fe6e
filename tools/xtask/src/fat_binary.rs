//! Whether the fat binary is what the library asks for: a driver refuses no launch of `vcc_ops::launch` on any target.
//!
//! For every target, and in the PTX, the kernels are those that the library names, no more and no fewer. Each has the parameters that are
//! passed to it, threads enough for its blocks, registers enough for its threads, and shared memory within what needs no asking.
//!
//! What is in the binary is read from what NVIDIA's cuobjdump prints; what is asked for comes from `launch` itself, of sizes that make it
//! name every kernel.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use vcc_core::{Dims, Ladder, Layout};
use vcc_ops::launch::{self, Argument, Launch};

use crate::steps::capture;

/// What a block may have of registers, on every generation.
const REGISTERS: usize = 65_536;
/// What a block may have of shared memory without asking.
const SHARED: usize = 48 << 10;
/// What a driver for CUDA 13.0 reads; `cuda/mod.rs` asks for no newer one.
const PTX_VERSION: &str = "[9,0]";

/// A kernel of a target.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    /// Bytes of each parameter; in PTX its type.
    parameters: Vec<String>,
    /// The most threads of a block.
    threads: usize,
    /// For each thread; 0 in PTX, where the driver chooses what fits `threads`.
    registers: usize,
    /// Bytes for each block, without what a launch asks for.
    shared: usize,
    /// Bytes for each thread.
    local: usize,
}

/// The kernels of each target by name: `sm_75`, or `PTX sm_75`.
type Binary = BTreeMap<String, BTreeMap<String, Kernel>>;

/// Compares a fat binary with the launches.
pub(crate) fn check(cuobjdump: &Path, binary: &Path, targets: &[&str]) -> Result<()> {
    let dump = |what| capture(Command::new(cuobjdump).args([OsStr::new(what), binary.as_os_str()]));
    let found = read(&dump("-res-usage")?, &dump("-elf")?, &dump("-ptx")?)?;
    let mut wanted: Vec<String> = targets
        .iter()
        .map(|target| format!("sm_{target}"))
        .collect();
    wanted.push(format!("PTX sm_{}", targets[0]));
    let faults = faults(&found, &wanted, &launch::kernels(), &launches()?);
    ensure!(
        faults.is_empty(),
        "the fat binary is not what is launched:\n  {}",
        faults.join("\n  ")
    );
    let kernels = found.values().flat_map(BTreeMap::values);
    eprintln!(
        "    {} kernels for {} targets; {} registers at most",
        launch::kernels().len(),
        wanted.len(),
        kernels.map(|kernel| kernel.registers).max().unwrap_or(0)
    );
    Ok(())
}

// What is launched.

/// Launches of every kernel, with the most shared memory that each may ask for.
fn launches() -> Result<Vec<Launch>> {
    let mut all = vec![];
    let dims = Dims {
        batch: 2,
        channels: 768,
    };
    for sizes in [&[16, 1][..], &[128, 64, 32, 16, 8, 4, 2, 1]] {
        let layout = Layout::for_tokens(Ladder::new(sizes)?, 4096, 48)?;
        let (n, q) = (4096, 100);
        // Addresses that vectors take, and such that they do not.
        for at in [16, 4] {
            for ty in [launch::Type::F32, launch::Type::F16, launch::Type::Bf16] {
                let state = [at; 3];
                all.extend(launch::coarsen(ty, &layout, dims, n, at, at, at, state)?);
                let rows = launch::Rows {
                    rows: at,
                    row_token: at,
                    row_bias: at,
                };
                let made = launch::compress(ty, &layout, dims, q, 1.0, state, at, at, at, rows);
                all.extend(made?);
                let update = launch::Update {
                    y: at,
                    update: at,
                    gain: at,
                };
                let made = launch::decompress(ty, &layout, dims, q, at, at, update, state);
                all.extend(made?);
                all.extend(launch::expand(ty, &layout, dims, n, state, at, at)?);
                for candidates in [layout.roots(), 8192, launch::MAX_CANDIDATES] {
                    // One block alone, and blocks that share the work.
                    for (heads, refine) in [(1, 0), (1, 1), (12, candidates / 2)] {
                        let selection = launch::Selection {
                            level: 0,
                            heads,
                            candidates,
                            refine,
                        };
                        let tensors = launch::SelectionTensors {
                            scores: at,
                            candidates: at,
                            item_count: at,
                            vote: at,
                            children: at,
                            rest: at,
                            sums: at,
                        };
                        let made = launch::select(ty, &layout, dims.batch, selection, tensors);
                        all.extend(made?);
                    }
                }
            }
        }
        let out = launch::Partition {
            item_token: 16,
            item_count: 16,
            token_slot: 16,
            vote: 16,
            roots: 16,
        };
        all.extend(launch::partition(&layout, dims.batch, n, 16, 16, out)?);
    }
    Ok(all)
}

/// A parameter as cuobjdump prints it of code, or of PTX.
fn parameter(argument: &Argument, ptx: bool) -> String {
    match (argument, ptx) {
        (Argument::Pointer(_), true) => "u64".into(),
        (Argument::Int(_), true) => "u32".into(),
        (Argument::Float(_), true) => "f32".into(),
        (Argument::Layout(layout), true) => format!("b8[{}]", size_of_val(layout)),
        (Argument::Pointer(value), false) => size_of_val(value).to_string(),
        (Argument::Int(value), false) => size_of_val(value).to_string(),
        (Argument::Float(value), false) => size_of_val(value).to_string(),
        (Argument::Layout(layout), false) => size_of_val(layout).to_string(),
    }
}

/// What a driver would refuse, or what nobody launches.
fn faults(
    binary: &Binary,
    targets: &[String],
    names: &[String],
    launches: &[Launch],
) -> Vec<String> {
    let mut faults = vec![];
    for target in binary.keys().filter(|target| !targets.contains(target)) {
        faults.push(format!("{target} was not asked for"));
    }
    for name in names {
        if !launches.iter().any(|launch| &launch.kernel == name) {
            faults.push(format!("{name} is named, and not among the launches here"));
        }
    }
    for target in targets {
        let empty = BTreeMap::new();
        let kernels = binary.get(target).unwrap_or(&empty);
        let mut fault = |name: &str, what: String| {
            let text = format!("{target}: {name} {what}");
            if !faults.contains(&text) {
                faults.push(text);
            }
        };
        for name in names.iter().filter(|name| !kernels.contains_key(*name)) {
            fault(name, "is missing".into());
        }
        for (name, kernel) in kernels {
            if !names.contains(name) {
                fault(name, "is launched by nobody".into());
            }
            if kernel.local > 0 {
                fault(name, format!("keeps {} bytes in memory", kernel.local));
            }
        }
        for launch in launches {
            let name = &launch.kernel;
            let (block, asked) = (launch.block as usize, launch.shared as usize);
            if !names.contains(name) {
                fault(name, "is launched, and not named".into());
            }
            let Some(kernel) = kernels.get(name) else {
                continue;
            };
            let passed = launch.arguments.iter();
            let passed: Vec<_> = passed
                .map(|argument| parameter(argument, target.starts_with("PTX")))
                .collect();
            if kernel.parameters != passed {
                let takes = kernel.parameters.join(" ");
                fault(name, format!("takes {takes}; passed: {}", passed.join(" ")));
            }
            if block > kernel.threads {
                fault(name, format!("has {} threads of {block}", kernel.threads));
            }
            // Registers are handed out to four warps at once, eight for each thread.
            let registers = block.next_multiple_of(128) * kernel.registers.next_multiple_of(8);
            if registers > REGISTERS {
                fault(
                    name,
                    format!("needs {registers} registers for {block} threads"),
                );
            }
            if kernel.shared + asked > SHARED {
                let all = kernel.shared + asked;
                fault(name, format!("needs {all} bytes of shared memory"));
            }
        }
    }
    faults
}

// What cuobjdump prints.

/// Puts together what its options `-res-usage`, `-elf` and `-ptx` print.
fn read(usage: &str, elf: &str, ptx: &str) -> Result<Binary> {
    let mut binary = Binary::new();
    read_usage(usage, &mut binary)?;
    read_elf(elf, &mut binary)?;
    read_ptx(ptx, &mut binary)?;
    ensure!(!binary.is_empty(), "cuobjdump prints nothing that is known");
    for (target, kernels) in &binary {
        for (name, kernel) in kernels {
            ensure!(
                kernel.threads > 0 && (kernel.registers > 0 || target.starts_with("PTX")),
                "cuobjdump does not say all of {name} for {target}"
            );
        }
    }
    Ok(binary)
}

/// The target of the code that follows, from a line like `arch = sm_75`.
fn target(line: &str) -> Option<&str> {
    line.strip_prefix("arch = ").map(str::trim)
}

/// Registers and memory: `Function NAME:`, and in the next line `REG:52 STACK:0 SHARED:0 LOCAL:0` and more.
fn read_usage(text: &str, binary: &mut Binary) -> Result<()> {
    let (mut code, mut name) = ("", None);
    for line in text.lines() {
        if let Some(target) = target(line) {
            code = target;
        } else if let Some(function) = line.trim().strip_prefix("Function ") {
            name = function.strip_suffix(':');
        } else if let Some(name) = name.take() {
            let number = |what: &str| -> Result<usize> {
                let mut words = line.split_whitespace();
                let word = words.find_map(|word| word.strip_prefix(what)?.strip_prefix(':'));
                let word = word.with_context(|| format!("no {what} of {name} in {line:?}"))?;
                Ok(word.parse()?)
            };
            let kernel = Kernel {
                registers: number("REG")?,
                shared: number("SHARED")?,
                local: number("STACK")? + number("LOCAL")?,
                ..Kernel::default()
            };
            let kernels = binary.entry(code.to_owned()).or_default();
            kernels.insert(name.to_owned(), kernel);
        }
    }
    Ok(())
}

/// Parameters and threads: the attributes under a line `.nv.info.NAME`, each with a value in a line of its own, the last parameter first.
fn read_elf(text: &str, binary: &mut Binary) -> Result<()> {
    let (mut code, mut name, mut attribute) = ("", None, "");
    for line in text.lines() {
        if let Some(target) = target(line) {
            code = target;
        } else if line.starts_with('.') {
            name = line.trim().strip_prefix(".nv.info.");
        } else if let Some(what) = line.trim().strip_prefix("Attribute:") {
            attribute = what.trim();
        } else if let (Some(name), Some(value)) = (name, line.trim().strip_prefix("Value:")) {
            let kernel = binary.get_mut(code).and_then(|code| code.get_mut(name));
            let kernel = kernel.with_context(|| format!("{name} for {code} has no registers"))?;
            match attribute {
                "EIATTR_KPARAM_INFO" => {
                    let (ordinal, size) = (field(value, "Ordinal")?, field(value, "Size")?);
                    if kernel.parameters.len() <= ordinal {
                        kernel.parameters.resize(ordinal + 1, String::new());
                    }
                    kernel.parameters[ordinal] = size.to_string();
                }
                "EIATTR_MAX_THREADS" => {
                    let sizes = value.split_whitespace().map(hexadecimal);
                    kernel.threads = sizes.product::<Result<usize>>()?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// `Size    : 0x60` among other fields.
fn field(line: &str, name: &str) -> Result<usize> {
    let rest = line.split_once(name).map(|(_, rest)| rest.trim_start());
    let value = rest.and_then(|rest| rest.strip_prefix(':')?.split_whitespace().next());
    hexadecimal(value.with_context(|| format!("no {name} in {line:?}"))?)
}

fn hexadecimal(text: &str) -> Result<usize> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    usize::from_str_radix(digits, 16).with_context(|| format!("no number: {text:?}"))
}

/// Entries of PTX: `.visible .entry NAME(`, a line for each parameter, `)`, and the bounds of the block.
fn read_ptx(text: &str, binary: &mut Binary) -> Result<()> {
    let (mut code, mut is_ptx, mut name) = (String::new(), false, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with("Fatbin ") {
            is_ptx = line.contains("ptx");
        } else if !is_ptx {
            // Code is listed here too, without what is in it.
        } else if let Some(target) = target(line) {
            code = format!("PTX {target}");
            binary.entry(code.clone()).or_default();
        } else if let Some(version) = line.strip_prefix("code version = ") {
            ensure!(
                version == PTX_VERSION,
                "PTX of version {version}; the oldest driver that is accepted reads {PTX_VERSION}"
            );
        } else if line.starts_with(".shared") {
            bail!("the PTX has shared memory of its own: {line}");
        } else if let Some((_, entry)) = line.split_once(".entry ") {
            let entry = entry.trim_end_matches('(').to_owned();
            let kernels = binary.entry(code.clone()).or_default();
            kernels.insert(entry.clone(), Kernel::default());
            name = Some(entry);
        } else if let Some(name) = &name {
            let kernel = binary.get_mut(&code).and_then(|code| code.get_mut(name));
            let kernel = kernel.context("a kernel of no target")?;
            let line = line.trim_end_matches(',');
            if let Some(declared) = line.strip_prefix(".param ") {
                // `.u32 NAME`, or `.align 4 .b8 NAME[96]`.
                let (_, ty) = declared
                    .rsplit_once('.')
                    .context("a parameter of no type")?;
                let (ty, name) = ty.split_once(' ').context("a parameter of no name")?;
                let length = name.find('[').map_or("", |at| &name[at..]);
                kernel.parameters.push(format!("{ty}{length}"));
            } else if let Some(bounds) = line.strip_prefix(".maxntid ") {
                let sizes = bounds.split(',').map(|size| size.trim().parse::<usize>());
                kernel.threads = sizes.product::<Result<_, _>>()?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{faults, launches, read};
    use vcc_ops::launch;

    const NAME: &str = "vcc_partition_segments";
    const USAGE: &str = "\
arch = sm_90
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function vcc_partition_segments:
  REG:40 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:496 TEXTURE:0 SURFACE:0 SAMPLER:0
";
    const ELF: &str = "\
arch = sm_90
   2e   fa64    214  0  4   CUDA_INFO   40    3   a5 .nv.info.vcc_partition_segments
.nv.info
	Attribute:	EIATTR_REGCOUNT
	Value:	function: vcc_partition_segments(0xed)	register count: 40
.nv.info.vcc_partition_segments
	<0x1>
	Attribute:	EIATTR_KPARAM_INFO
	Format:	EIFMT_SVAL
	Value:	Index : 0x0	Ordinal : 0x4	Offset  : 0x78	Size    : 0x4
		Pointee's logAlignment : 0x0	Space : 0x0	cbank : 0x1f	Parameter Space : CBANK
	Attribute:	EIATTR_KPARAM_INFO
	Value:	Index : 0x0	Ordinal : 0x3	Offset  : 0x18	Size    : 0x60
	Attribute:	EIATTR_KPARAM_INFO
	Value:	Index : 0x0	Ordinal : 0x2	Offset  : 0x10	Size    : 0x8
	Attribute:	EIATTR_KPARAM_INFO
	Value:	Index : 0x0	Ordinal : 0x1	Offset  : 0x8	Size    : 0x8
	Attribute:	EIATTR_KPARAM_INFO
	Value:	Index : 0x0	Ordinal : 0x0	Offset  : 0x0	Size    : 0x8
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x100 0x1 0x1
.nv.callgraph
 <0,-1>
";
    const PTX: &str = "\
Fatbin ptx code:
================
arch = sm_75
code version = [9,0]

.version 9.0
.target sm_75
.extern .shared .align 16 .b8 vcc_shared_bytes[];

.visible .entry vcc_partition_segments(
.param .u64 vcc_partition_segments_param_0,
.param .u64 vcc_partition_segments_param_1,
.param .u64 vcc_partition_segments_param_2,
.param .align 4 .b8 vcc_partition_segments_param_3[96],
.param .u32 vcc_partition_segments_param_4
)
.maxntid 256, 1, 1
{
.reg .pred %p<354>;
}

Fatbin elf code:
================
arch = sm_90
code version = [1,8]
";

    /// What is wrong with a binary of one kernel, or why it cannot be read.
    fn wrong(usage: &str, elf: &str, ptx: &str, shared: u32) -> Vec<String> {
        let targets = ["sm_90".to_owned(), "PTX sm_75".to_owned()];
        let mut launches = launches().unwrap();
        launches.retain(|launch| launch.kernel == NAME);
        launches
            .iter_mut()
            .for_each(|launch| launch.shared = shared);
        match read(usage, elf, ptx) {
            Ok(binary) => faults(&binary, &targets, &[NAME.to_owned()], &launches),
            Err(error) => vec![format!("{error:#}")],
        }
    }

    #[test]
    fn a_binary_as_it_should_be() {
        assert_eq!(wrong(USAGE, ELF, PTX, 47 << 10), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_found() {
        let unused = ".visible .entry vcc_other(\n)\n.maxntid 32, 1, 1\n{\n}\n\nFatbin elf";
        for (from, to, said) in [
            // In all three texts.
            ("segments", "segment", "vcc_partition_segments is missing"),
            ("arch = sm_90", "arch = sm_80", "sm_80 was not asked for"),
            // Of the code.
            ("REG:40", "REG:264", "needs 67584 registers for 256 threads"),
            ("LOCAL:0", "LOCAL:8", "keeps 8 bytes in memory"),
            ("STACK:0", "STACK:16", "keeps 16 bytes in memory"),
            ("SHARED:1024", "SHARED:2048", "needs 50176 bytes of shared"),
            (
                "Size    : 0x60",
                "Size    : 0x64",
                "takes 8 8 8 100 4; passed",
            ),
            (
                "Ordinal : 0x4",
                "Ordinal : 0x5",
                "takes 8 8 8 96  4; passed",
            ),
            ("0x100 0x1 0x1", "0x80 0x1 0x1", "has 128 threads of 256"),
            ("Ordinal :", "Number :", "no Ordinal in"),
            ("EIATTR_MAX_THREADS", "EIATTR_OTHER", "does not say all of"),
            ("REG:40", "", "no REG of"),
            // Of the PTX.
            (".u32 ", ".f32 ", "takes u64 u64 u64 b8[96] f32; passed"),
            ("[96]", "[100]", "takes u64 u64 u64 b8[100] u32; passed"),
            ("256, 1, 1", "128, 1, 1", "has 128 threads of 256"),
            ("[9,0]", "[9,5]", "PTX of version [9,5]"),
            ("{\n", "{\n.shared .align 4 .b8 x[8];\n", "of its own"),
            ("Fatbin elf", unused, "vcc_other is launched by nobody"),
        ] {
            let [usage, elf, ptx] = [USAGE, ELF, PTX].map(|text| text.replace(from, to));
            let found = wrong(&usage, &elf, &ptx, 47 << 10);
            let told = found.iter().any(|fault| fault.contains(said));
            assert!(told, "{from:?} as {to:?}: {found:?}");
        }
        assert!(wrong("", "", "", 0)[0].contains("nothing that is known"));
        let asked = wrong(USAGE, ELF, PTX, 48 << 10);
        assert_eq!(asked.len(), 1, "{asked:?}");
    }

    #[test]
    fn the_launches_are_of_every_kernel() {
        let launched: BTreeSet<_> = launches().unwrap().into_iter().map(|l| l.kernel).collect();
        assert_eq!(launched, launch::kernels().into_iter().collect());
    }
}
