//! Which CUDA kernels an operator launches: names, geometry and arguments. No driver here, so this runs anywhere.
//!
//! The kernels are in `crates/vcc-ops/cuda`; `kernels.h` there declares their parameters, and the constants below are its constants.
//! Launches of one operator run in order on one stream, which is all the ordering they need. Work that is empty is not launched.

use std::ffi::c_void;
use std::fmt;

use vcc_core::{Dims, Layout};

/// A device address.
pub type Pointer = u64;

/// Levels of segments that the kernels have room for.
pub const MAX_LEVELS: usize = 8;
/// Candidates that one selection can have.
pub const MAX_CANDIDATES: usize = 131_072;

const WARP: usize = 32;
/// Warps in a block of the kernels that give each warp its own rows.
const WARPS: usize = 4;
/// List rows that a warp of compress and decompress handles.
const LIST_ROWS: usize = 8;
/// Slots or tokens that a warp handles when it copies VIP slots or expands.
const COPY_ROWS: usize = 32;
const PARTITION_THREADS: usize = 512;
/// Numbers that each warp of the partition counts.
const PARTITION_NUMBERS: usize = 6;
/// Tokens that a block of the partition handles.
const PARTITION_TOKENS: usize = 4096;
const SEGMENT_THREADS: usize = 256;
/// Neighbouring segments of a level that a warp of the partition handles.
const SEGMENT_GROUP: usize = 8;
const SELECT_THREADS: usize = 1024;
/// Candidates of a selection that a block has in its registers, 8 in each thread.
const SELECT_MOST: usize = 8 * SELECT_THREADS;
/// Bytes of one candidate's scores that a block adds up. What blocks that share the work move more than one alone, about 24 bytes for
/// each candidate and block, is a seventh of that.
const PART_BYTES: usize = 168;
const MAX_PARTS: usize = 64;
const VECTOR_BYTES: usize = 16;
/// The driver's limit for the second and third dimension of a grid.
const MAX_GRID: usize = 65_535;

/// A data type of rows or scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// float32
    F32,
    /// float16
    F16,
    /// bfloat16
    Bf16,
}

impl Type {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// `VccLayout` of `kernels.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLayout {
    levels: i32,
    vips: i32,
    roots: i32,
    slots: i32,
    segments: i32,
    items: i32,
    size: [i32; MAX_LEVELS + 1],
    start: [i32; MAX_LEVELS + 1],
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// Any pointer.
    Pointer(Pointer),
    /// `int`
    Int(i32),
    /// `float`
    Float(f32),
    /// `VccLayout`, by value.
    Layout(DeviceLayout),
}

/// One kernel launch. Blocks are one-dimensional.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The entry point.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads in a block.
    pub block: u32,
    /// Dynamic shared memory in bytes; never above 48 KiB.
    pub shared: u32,
    /// In the order of the parameters.
    pub arguments: Vec<Argument>,
}

impl Launch {
    /// Addresses of the arguments, as the driver takes them. They point into `self`.
    pub fn parameters(&self) -> Vec<*mut c_void> {
        let address = |argument: &Argument| -> *mut c_void {
            match argument {
                Argument::Pointer(value) => (&raw const *value).cast_mut().cast(),
                Argument::Int(value) => (&raw const *value).cast_mut().cast(),
                Argument::Float(value) => (&raw const *value).cast_mut().cast(),
                Argument::Layout(value) => (&raw const *value).cast_mut().cast(),
            }
        };
        self.arguments.iter().map(address).collect()
    }
}

/// The names of all kernels that are launched, each once.
pub fn kernels() -> Vec<String> {
    let mut names = ["partition_tokens", "partition_segments", "select_top"]
        .map(|kernel| format!("vcc_{kernel}"))
        .to_vec();
    for kernel in [
        "coarsen",
        "select",
        "select_scores",
        "compress",
        "decompress_rows",
        "decompress_level",
        "expand",
    ] {
        for data in ["f32", "f16", "bf16"] {
            names.push(format!("vcc_{kernel}_{data}"));
            names.push(format!("vcc_{kernel}_{data}_any"));
        }
    }
    names
}

/// Sizes that the kernels are not made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    what: &'static str,
    size: usize,
    limit: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, size, limit } = self;
        write!(
            f,
            "{size} {what} are more than the {limit} that the CUDA kernels allow; run this model on the CPU"
        )
    }
}

impl std::error::Error for Error {}

fn at_most(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit {
        return Err(Error { what, size, limit });
    }
    Ok(())
}

fn int(what: &'static str, size: usize) -> Result<i32, Error> {
    i32::try_from(size).map_err(|_| Error {
        what,
        size,
        limit: i32::MAX as usize,
    })
}

fn device(layout: &Layout) -> Result<DeviceLayout, Error> {
    let ladder = layout.ladder();
    at_most("levels", ladder.levels(), MAX_LEVELS)?;
    // Every other size is below the number of items, and a segment's size is at most the number of slots.
    let items = int("items", layout.items())?;
    let (mut size, mut start) = ([1; MAX_LEVELS + 1], [items; MAX_LEVELS + 1]);
    for (level, (size, start)) in size.iter_mut().zip(&mut start).enumerate() {
        if level < ladder.levels() {
            *size = ladder.sizes()[level] as i32;
            *start = layout.level(level).start as i32;
        }
    }
    Ok(DeviceLayout {
        levels: ladder.levels() as i32,
        vips: layout.vips() as i32,
        roots: layout.roots() as i32,
        slots: layout.slots() as i32,
        segments: layout.segments() as i32,
        items,
        size,
        start,
    })
}

/// How the channels of a row are shared out: vectors of 16 bytes if they divide the rows and every pointer allows it.
struct Channels {
    suffix: String,
    /// Elements of a vector.
    vector: usize,
    /// Pieces of 32 vectors in a row.
    tiles: usize,
}

fn channels(ty: Type, channels: usize, pointers: &[Pointer]) -> Channels {
    let wide = VECTOR_BYTES / ty.bytes();
    let aligned = pointers
        .iter()
        .all(|pointer| pointer % VECTOR_BYTES as u64 == 0);
    let (vector, any) = if aligned && channels.is_multiple_of(wide) {
        (wide, "")
    } else {
        (1, "_any")
    };
    Channels {
        suffix: format!("{}{any}", ty.suffix()),
        vector,
        tiles: channels.div_ceil(WARP * vector),
    }
}

/// A launch that gives each warp one unit of work in one tile of the channels.
fn by_warp(
    kernel: &str,
    channels: &Channels,
    units: usize,
    batch: usize,
    shared: usize,
    arguments: Vec<Argument>,
) -> Result<Option<Launch>, Error> {
    let grid = [units.div_ceil(WARPS), channels.tiles, batch];
    launch(
        format!("{kernel}_{}", channels.suffix),
        grid,
        WARPS * WARP,
        shared,
        arguments,
    )
}

/// `None` if there is nothing to do.
fn launch(
    kernel: String,
    grid: [usize; 3],
    block: usize,
    shared: usize,
    arguments: Vec<Argument>,
) -> Result<Option<Launch>, Error> {
    int("blocks", grid[0])?;
    at_most("tiles of channels", grid[1], MAX_GRID)?;
    at_most("batch rows", grid[2], MAX_GRID)?;
    if grid.contains(&0) {
        return Ok(None);
    }
    Ok(Some(Launch {
        kernel,
        grid: grid.map(|size| size as u32),
        block: block as u32,
        shared: shared as u32,
        arguments,
    }))
}

macro_rules! arguments {
    ($($kind:ident($value:expr)),* $(,)?) => { vec![$(Argument::$kind($value)),*] };
}

/// The outputs of `VccPartition`.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    /// `[B,P]`
    pub item_token: Pointer,
    /// `[B,P]`
    pub item_count: Pointer,
    /// `[B,n]`
    pub token_slot: Pointer,
    /// `[B,v]`
    pub vote: Pointer,
    /// `[B,nb]`
    pub roots: Pointer,
}

/// `VccPartition`, with the number of VIP slots known.
///
/// # Errors
/// Sizes that the kernels are not made for.
pub fn partition(
    layout: &Layout,
    batch: usize,
    n: usize,
    vip: Pointer,
    valid: Pointer,
    out: Partition,
) -> Result<Vec<Launch>, Error> {
    let (sizes, tokens) = (device(layout)?, int("tokens", n)?);
    let first = launch(
        "vcc_partition_tokens".into(),
        [n.div_ceil(PARTITION_TOKENS), 1, batch],
        PARTITION_THREADS,
        PARTITION_NUMBERS * (PARTITION_THREADS / WARP) * size_of::<i32>(),
        arguments![
            Pointer(vip),
            Pointer(valid),
            Pointer(out.item_token),
            Pointer(out.item_count),
            Pointer(out.token_slot),
            Pointer(out.vote),
            Pointer(out.roots),
            Layout(sizes),
            Int(tokens)
        ],
    )?;
    let levels = 0..layout.ladder().levels();
    let groups: usize = levels
        .map(|level| layout.level(level).len().div_ceil(SEGMENT_GROUP))
        .sum();
    let second = launch(
        "vcc_partition_segments".into(),
        [groups.div_ceil(SEGMENT_THREADS / WARP), 1, batch],
        SEGMENT_THREADS,
        0,
        arguments![
            Pointer(valid),
            Pointer(out.item_token),
            Pointer(out.item_count),
            Layout(sizes),
            Int(tokens)
        ],
    )?;
    Ok(first.into_iter().chain(second).collect())
}

/// `VccCoarsen`. `state` is value, scale and offset.
///
/// # Errors
/// Sizes that the kernels are not made for.
#[expect(
    clippy::too_many_arguments,
    reason = "the operator's inputs and outputs"
)]
pub fn coarsen(
    ty: Type,
    layout: &Layout,
    dims: Dims,
    n: usize,
    x: Pointer,
    item_token: Pointer,
    item_count: Pointer,
    state: [Pointer; 3],
) -> Result<Vec<Launch>, Error> {
    let [value, scale, offset] = state;
    let channels = channels(ty, dims.channels, &[x, value, scale, offset]);
    // A sum per level above the finest, for every thread's channels.
    let shared = WARPS * WARP * channels.vector * size_of::<f32>() * (layout.ladder().levels() - 1);
    let only = by_warp(
        "vcc_coarsen",
        &channels,
        layout.roots() + layout.vips().div_ceil(COPY_ROWS),
        dims.batch,
        shared,
        arguments![
            Pointer(x),
            Pointer(item_token),
            Pointer(item_count),
            Pointer(value),
            Pointer(scale),
            Pointer(offset),
            Layout(device(layout)?),
            Int(int("tokens", n)?),
            Int(int("channels", dims.channels)?)
        ],
    )?;
    Ok(only.into_iter().collect())
}

/// The sizes of `VccSelect`.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Level of the candidates.
    pub level: usize,
    /// `H`
    pub heads: usize,
    /// `C`
    pub candidates: usize,
    /// `h`, at most `C`: `vcc_core::refined`.
    pub refine: usize,
}

impl Selection {
    /// All or none are refined, so nobody asks for the scores.
    fn is_decided(self) -> bool {
        self.refine == 0 || self.refine == self.candidates
    }
}

/// The tensors of `VccSelect`.
#[derive(Clone, Copy, Debug)]
pub struct SelectionTensors {
    /// `[B,H,v,C]`
    pub scores: Pointer,
    /// `[B,C]`
    pub candidates: Pointer,
    /// `[B,P]`
    pub item_count: Pointer,
    /// `[B,v]`
    pub vote: Pointer,
    /// `[B,h*c]`
    pub children: Pointer,
    /// `[B,C-h]`
    pub rest: Pointer,
    /// `[B,s,C]`, with `s` of [`parts`]
    pub sums: Pointer,
}

/// How many blocks share the scores of a batch row, each with sums of its own in the output `sums`; 0 if there are none to add up, or if
/// the block that chooses does it alone.
pub fn parts(ty: Type, layout: &Layout, sizes: Selection) -> usize {
    if sizes.is_decided() {
        return 0;
    }
    let bytes = sizes.heads * layout.vips() * ty.bytes();
    let parts = (bytes + PART_BYTES / 2) / PART_BYTES;
    let alone = sizes.candidates <= SELECT_MOST;
    match parts.min(MAX_PARTS) {
        0 | 1 if alone => 0,
        parts => parts.max(1),
    }
}

/// `VccSelect`; `ty` is that of the scores.
///
/// # Errors
/// Sizes that the kernels are not made for.
pub fn select(
    ty: Type,
    layout: &Layout,
    batch: usize,
    sizes: Selection,
    tensors: SelectionTensors,
) -> Result<Vec<Launch>, Error> {
    let parts = parts(ty, layout, sizes);
    let alone = parts == 0 && !sizes.is_decided();
    let Selection {
        level,
        heads,
        candidates,
        refine,
    } = sizes;
    at_most("candidates", candidates, MAX_CANDIDATES)?;
    if candidates == 0 {
        return Ok(vec![]);
    }
    int("selected items", refine * layout.ladder().children(level))?;
    int("rows of scores", heads * layout.vips())?;
    let numbers = [level, heads, candidates, refine, parts];
    let [level, heads, count, refined, summed] = numbers.map(|number| Argument::Int(number as i32));
    let layout = Argument::Layout(device(layout)?);
    let inputs = arguments![
        Pointer(tensors.scores),
        Pointer(tensors.candidates),
        Pointer(tensors.item_count),
        Pointer(tensors.vote),
    ];
    let outputs = arguments![Pointer(tensors.children), Pointer(tensors.rest)];
    let sums = arguments![Pointer(tensors.sums)];

    let words = candidates.div_ceil(WARP);
    // Two bits for each candidate, a histogram, and what it found.
    let choice = 2 * words + 256 + 2;
    // The sums of all teams, with 4 numbers left out after every 32, and two numbers for each warp.
    let is_long = candidates > SELECT_MOST;
    let area = if is_long { 0 } else { SELECT_MOST / 8 * 9 } + 2 * SELECT_THREADS / WARP;

    let rows = channels(ty, candidates, &[tensors.scores]);
    let kernel = |name: &str, blocks, numbers: usize, arguments: Vec<Argument>| {
        let shared = size_of::<f32>() * numbers;
        launch(
            name.into(),
            [blocks, 1, batch],
            SELECT_THREADS,
            shared,
            arguments,
        )
    };
    let launches = if alone {
        let arguments = [inputs, outputs, vec![layout, level, heads, count, refined]].concat();
        let name = format!("vcc_select_{}", rows.suffix);
        [None, kernel(&name, 1, area + choice, arguments)?]
    } else {
        let arguments = [inputs, sums.clone(), vec![layout, heads, count, summed]].concat();
        let name = format!("vcc_select_scores_{}", rows.suffix);
        let scores = kernel(&name, parts, area + words, arguments)?;
        let arguments = [
            arguments![Pointer(tensors.candidates)],
            sums,
            outputs,
            vec![layout, level, count, refined, summed],
        ]
        .concat();
        let orders = if is_long || parts == 0 { 0 } else { candidates };
        [
            scores,
            kernel("vcc_select_top", 1, orders + choice, arguments)?,
        ]
    };
    Ok(launches.into_iter().flatten().collect())
}

/// The outputs of `VccCompress`.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// `[B,r,d]`
    pub rows: Pointer,
    /// `[B,r]`
    pub row_token: Pointer,
    /// `[B,r]`
    pub row_bias: Pointer,
}

/// Groups of list rows, and of VIP slots before them if `vips` is set.
fn list_groups(layout: &Layout, q: usize, vips: bool) -> usize {
    let vips = if vips { layout.vips() } else { 0 };
    vips.div_ceil(LIST_ROWS) + q.div_ceil(LIST_ROWS)
}

/// `VccCompress`. `state` is value, scale and offset.
///
/// # Errors
/// Sizes that the kernels are not made for.
#[expect(
    clippy::too_many_arguments,
    reason = "the operator's inputs, outputs and attributes"
)]
pub fn compress(
    ty: Type,
    layout: &Layout,
    dims: Dims,
    q: usize,
    count_weight: f32,
    state: [Pointer; 3],
    items: Pointer,
    item_token: Pointer,
    item_count: Pointer,
    out: Rows,
) -> Result<Vec<Launch>, Error> {
    let [value, scale, offset] = state;
    let channels = channels(ty, dims.channels, &[value, scale, offset, out.rows]);
    let only = by_warp(
        "vcc_compress",
        &channels,
        list_groups(layout, q, true),
        dims.batch,
        0,
        arguments![
            Pointer(value),
            Pointer(scale),
            Pointer(offset),
            Pointer(items),
            Pointer(item_token),
            Pointer(item_count),
            Pointer(out.rows),
            Pointer(out.row_token),
            Pointer(out.row_bias),
            Layout(device(layout)?),
            Int(int("items of a list", q)?),
            Int(int("channels", dims.channels)?),
            Float(count_weight),
        ],
    )?;
    Ok(only.into_iter().collect())
}

/// What a block computed.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// `[B,r,d]`
    pub y: Pointer,
    /// `[B,r,d]`
    pub update: Pointer,
    /// `[d]`
    pub gain: Pointer,
}

/// `VccDecompress`, in place on `state`: value, scale and offset.
///
/// # Errors
/// Sizes that the kernels are not made for.
#[expect(
    clippy::too_many_arguments,
    reason = "the operator's inputs and attributes"
)]
pub fn decompress(
    ty: Type,
    layout: &Layout,
    dims: Dims,
    q: usize,
    items: Pointer,
    item_count: Pointer,
    update: Update,
    state: [Pointer; 3],
) -> Result<Vec<Launch>, Error> {
    let [value, scale, offset] = state;
    let Update { y, update, gain } = update;
    let channels = channels(ty, dims.channels, &[value, scale, offset, y, update, gain]);
    let (list, d) = (int("items of a list", q)?, int("channels", dims.channels)?);
    let sizes = device(layout)?;
    let rows = by_warp(
        "vcc_decompress_rows",
        &channels,
        list_groups(layout, q, true),
        dims.batch,
        0,
        arguments![
            Pointer(value),
            Pointer(scale),
            Pointer(offset),
            Pointer(items),
            Pointer(item_count),
            Pointer(y),
            Pointer(update),
            Pointer(gain),
            Layout(sizes),
            Int(list),
            Int(d),
        ],
    )?;
    let mut launches: Vec<Launch> = rows.into_iter().collect();
    // The first kernel also refines the segments of the finest level; those above need the ones below them to be done.
    for level in (0..layout.ladder().levels() - 1).rev() {
        launches.extend(by_warp(
            "vcc_decompress_level",
            &channels,
            list_groups(layout, q, false),
            dims.batch,
            0,
            arguments![
                Pointer(value),
                Pointer(scale),
                Pointer(offset),
                Pointer(items),
                Pointer(item_count),
                Layout(sizes),
                Int(list),
                Int(d),
                Int(level as i32),
            ],
        )?);
    }
    Ok(launches)
}

/// `VccExpand`. `state` is value, scale and offset.
///
/// # Errors
/// Sizes that the kernels are not made for.
pub fn expand(
    ty: Type,
    layout: &Layout,
    dims: Dims,
    n: usize,
    state: [Pointer; 3],
    token_slot: Pointer,
    x: Pointer,
) -> Result<Vec<Launch>, Error> {
    let [value, scale, offset] = state;
    let channels = channels(ty, dims.channels, &[value, scale, offset, x]);
    let only = by_warp(
        "vcc_expand",
        &channels,
        n.div_ceil(COPY_ROWS),
        dims.batch,
        0,
        arguments![
            Pointer(value),
            Pointer(scale),
            Pointer(offset),
            Pointer(token_slot),
            Pointer(x),
            Layout(device(layout)?),
            Int(int("tokens", n)?),
            Int(int("channels", dims.channels)?),
        ],
    )?;
    Ok(only.into_iter().collect())
}
