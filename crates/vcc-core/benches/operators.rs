//! Time of every operator at real sizes, and how much of the machine's memory bandwidth it uses.
//!
//! `cargo bench -p vcc-core --bench operators` times each operator with cold caches, as it meets them between two blocks of a model, on
//! all cores, and ends in a table of the fastest samples; criterion's own figures stand above it. *MB* is what the operator cannot do
//! without: each row that it needs read once, each row that it writes written once. *share* is bytes per second against what copying a
//! tensor reaches in the same run. A copy does not read what it overwrites, as any other loop does; *scale* (half of every number of a
//! tensor to another one) is what such a loop can reach.

#![allow(missing_docs, clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use half::f16;
use vcc_core::{
    Compressed, Dims, Element, Item, Ladder, Layout, Partition, Selection, State, StateMut, Update,
};

const CHANNELS: usize = 768;
const HEADS: usize = 12;
const VIPS: usize = 48;
/// Larger than the last-level cache.
const FLUSH: usize = 64 << 20;
/// Elements of one task of *scale*.
const CHUNK: usize = 1 << 16;

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(400));
    let bench = &Bench::new();
    bench.memory(&mut criterion);
    for (sizes, tokens, rows) in [
        (&[16, 1][..], 16_384, 2_500),
        (&[64, 8, 1], 16_384, 2_500),
        (&[64, 8, 1], 16_384, 3_500),
        (&[64, 8, 1], 32_768, 3_500),
        (&[64, 8, 1], 65_536, 3_500),
        (&[64, 8, 1], 131_072, 3_500),
    ] {
        Model::<f32>::new(sizes, tokens, rows).run(&mut criterion, bench);
    }
    Model::<f16>::new(&[64, 8, 1], 65_536, 3_500).run(&mut criterion, bench);
    criterion.final_summary();
    bench.print();
}

/// Tasks on all cores.
fn threads(tasks: usize, run: &(dyn Fn(usize) + Sync)) {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                task if task < tasks => run(task),
                _ => return,
            }
        }
    };
    std::thread::scope(|scope| {
        (1..workers.min(tasks)).for_each(|_| _ = scope.spawn(work));
        work();
    });
}

/// Reproducible numbers in -1..1.
fn random<T: Element>(len: usize) -> Vec<T> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        T::narrow((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

/// One line of the table.
struct Line {
    name: String,
    model: String,
    bytes: usize,
    fastest: Duration,
}

struct Bench {
    flush: RefCell<Vec<u8>>,
    lines: RefCell<Vec<Line>>,
}

impl Bench {
    fn new() -> Self {
        Self {
            flush: RefCell::new(vec![1; FLUSH]),
            lines: RefCell::new(vec![]),
        }
    }

    /// Times `run` with cold caches.
    fn time(
        &self,
        criterion: &mut Criterion,
        name: &str,
        model: &str,
        bytes: usize,
        mut run: impl FnMut(),
    ) {
        let mut fastest = Duration::MAX;
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(model), |bencher| {
            bencher.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    self.flush.borrow_mut().iter_mut().for_each(|x| *x ^= 1);
                    black_box(&self.flush);
                    let start = Instant::now();
                    run();
                    let time = start.elapsed();
                    fastest = fastest.min(time);
                    total += time;
                }
                total
            });
        });
        group.finish();
        if fastest < Duration::MAX {
            self.lines.borrow_mut().push(Line {
                name: name.to_owned(),
                model: model.to_owned(),
                bytes,
                fastest,
            });
        }
    }

    /// What the memory of the machine can do.
    fn memory(&self, criterion: &mut Criterion) {
        let (from, mut to) = (random::<f32>(64 << 20), vec![0f32; 64 << 20]);
        let bytes = 2 * size_of_val(&from[..]);
        self.time(criterion, "copy", "256 MiB", bytes, || {
            vcc_core::copy(&from, &mut to, &threads);
            black_box(&to);
        });
        self.time(criterion, "scale", "256 MiB", bytes, || {
            let pieces = to.chunks_mut(CHUNK).map(Mutex::new);
            let tasks: Vec<_> = from.chunks(CHUNK).zip(pieces).collect();
            threads(tasks.len(), &|task| {
                let (from, to) = &tasks[task];
                let mut to = to.lock().unwrap();
                to.iter_mut().zip(*from).for_each(|(to, x)| *to = 0.5 * x);
            });
            black_box(&to);
        });
    }

    fn print(&self) {
        let lines = self.lines.borrow();
        let speed = |line: &Line| line.bytes as f64 / line.fastest.as_secs_f64() / 1e9;
        let copy = lines.iter().find(|line| line.name == "copy").map(speed);
        println!("| operator | model | ms | MB | GB/s | share |\n|---|---|---|---|---|---|");
        for line in lines.iter() {
            let share = copy.map_or("-".to_owned(), |copy| {
                format!("{:.0} %", 100.0 * speed(line) / copy)
            });
            println!(
                "| {} | {} | {:.2} | {:.1} | {:.1} | {share} |",
                line.name,
                line.model,
                line.fastest.as_secs_f64() * 1e3,
                line.bytes as f64 / 1e6,
                speed(line),
            );
        }
    }
}

/// A state of one sequence, and a list of items as selection with random scores gives it.
struct Model<T> {
    title: String,
    layout: Layout,
    tokens: usize,
    item_token: Vec<i64>,
    item_count: Vec<i64>,
    token_slot: Vec<i64>,
    vote: Vec<bool>,
    roots: Vec<i64>,
    scores: Vec<f32>,
    budgets: Vec<usize>,
    items: Vec<i64>,
    x: Vec<T>,
    value: Vec<T>,
    scale: Vec<T>,
    offset: Vec<T>,
}

const DIMS: Dims = Dims {
    batch: 1,
    channels: CHANNELS,
};

impl<T: Element> Model<T> {
    fn new(sizes: &[i64], tokens: usize, rows: usize) -> Self {
        let layout = Layout::for_tokens(Ladder::new(sizes).unwrap(), tokens, VIPS).unwrap();
        let mut this = Self {
            title: String::new(),
            tokens,
            item_token: vec![0; layout.items()],
            item_count: vec![0; layout.items()],
            token_slot: vec![0; tokens],
            vote: vec![false; VIPS],
            roots: vec![0; layout.roots()],
            scores: random(HEADS * VIPS * layout.context() / 8),
            budgets: vec![],
            items: vec![],
            x: random(tokens * CHANNELS),
            value: vec![T::ZERO; layout.items() * CHANNELS],
            scale: vec![T::ZERO; layout.segments() * CHANNELS],
            offset: vec![T::ZERO; layout.segments() * CHANNELS],
            layout,
        };
        this.partition();
        this.coarsen();
        // Half of the rows that refining adds come from each level.
        let levels = this.layout.ladder().levels();
        let wanted = (rows - VIPS - this.layout.roots()) / levels;
        let mut candidates = this.roots.clone();
        for level in 0..levels {
            let refine =
                (wanted / (this.layout.ladder().children(level) - 1)).min(candidates.len());
            let (children, rest) = this.select(level, &candidates, refine);
            this.budgets.push(refine);
            this.items.extend(rest);
            candidates = children;
        }
        this.items = [candidates, std::mem::take(&mut this.items)].concat();
        let sizes: Vec<String> = sizes.iter().map(i64::to_string).collect();
        let kind = std::any::type_name::<T>().rsplit(':').next().unwrap();
        this.title = format!(
            "{} n={tokens} r={} {kind}",
            sizes.join(":"),
            VIPS + this.items.len()
        );
        this
    }

    fn partition(&mut self) {
        let vip: Vec<bool> = (0..self.tokens).map(|token| token < VIPS).collect();
        let valid = vec![true; self.tokens];
        let out = Partition {
            item_token: &mut self.item_token,
            item_count: &mut self.item_count,
            token_slot: &mut self.token_slot,
            vote: &mut self.vote,
            roots: &mut self.roots,
        };
        vcc_core::partition(&self.layout, &vip, &valid, 1, self.tokens, out).unwrap();
    }

    fn coarsen(&mut self) {
        let state = StateMut {
            value: &mut self.value,
            scale: &mut self.scale,
            offset: &mut self.offset,
        };
        vcc_core::coarsen(
            &self.layout,
            DIMS,
            &self.x,
            &self.item_token,
            &self.item_count,
            state,
            &threads,
        )
        .unwrap();
    }

    fn select(&self, level: usize, candidates: &[i64], refine: usize) -> (Vec<i64>, Vec<i64>) {
        let mut children = vec![0; refine * self.layout.ladder().children(level)];
        let mut rest = vec![0; candidates.len() - refine];
        let input = Selection {
            level,
            scores: &self.scores[..HEADS * VIPS * candidates.len()],
            heads: HEADS,
            candidates,
            item_count: &self.item_count,
            vote: &self.vote,
            batch: 1,
            refine,
        };
        vcc_core::select(&self.layout, input, &mut children, &mut rest, &threads).unwrap();
        (children, rest)
    }

    fn state(&self) -> State<'_, T> {
        State {
            value: &self.value,
            scale: &self.scale,
            offset: &self.offset,
        }
    }

    /// Listed segments, and their ancestors and those of the listed slots: the refined segments.
    fn segments(&self) -> (usize, usize) {
        let sizes = self.layout.ladder().sizes();
        let (mut listed, mut refined) = (0, BTreeSet::new());
        for &item in &self.items {
            let (slot, level) = match self.layout.item(item).unwrap() {
                Item::Slot(slot) => (slot - VIPS, sizes.len() - 1),
                Item::Segment { level, index } => (index * sizes[level], level),
            };
            listed += usize::from(level + 1 < sizes.len());
            refined.extend((0..level).map(|above| (above, slot / sizes[above])));
        }
        (listed, refined.len())
    }

    fn run(mut self, criterion: &mut Criterion, bench: &Bench) {
        let title = self.title.clone();
        let row = CHANNELS * size_of::<T>();
        let r = VIPS + self.items.len();
        let (n, items, all_segments) = (self.tokens, self.layout.items(), self.layout.segments());
        let (listed, refined) = self.segments();
        let slots = r - listed;
        // Of the maps above it, a block needs those of every level but, when it writes, the last: slots are overwritten.
        let levels = self.layout.ladder().levels();
        let inner = self.items.len().min(refined) * usize::from(levels > 1);

        bench.time(criterion, "partition", &title, 18 * n + 16 * items, || {
            self.partition()
        });
        let bytes = (n + items + 2 * all_segments) * row;
        bench.time(criterion, "coarsen", &title, bytes, || self.coarsen());
        let bytes = HEADS * VIPS * self.roots.len() * 4;
        bench.time(criterion, "select", &title, bytes, || {
            black_box(self.select(0, &self.roots, self.budgets[0]));
        });

        let mut rows = vec![T::ZERO; r * CHANNELS];
        let (mut row_token, mut row_bias) = (vec![0; r], vec![0f32; r]);
        bench.time(
            criterion,
            "compress",
            &title,
            (2 * r + 2 * refined) * row,
            || {
                let out = Compressed {
                    rows: &mut rows,
                    row_token: &mut row_token,
                    row_bias: &mut row_bias,
                };
                let (layout, items) = (&self.layout, &self.items);
                vcc_core::compress(
                    layout,
                    DIMS,
                    self.state(),
                    items,
                    &self.item_token,
                    &self.item_count,
                    1.0,
                    out,
                    &threads,
                )
                .unwrap();
            },
        );

        let (y, gain) = (random::<T>(r * CHANNELS), vec![T::ONE; CHANNELS]);
        let update = rows;
        let bytes = (2 * slots + 7 * listed + 3 * refined + 2 * inner.min(refined)) * row;
        bench.time(criterion, "decompress", &title, bytes, || {
            let update = Update {
                y: &y,
                update: &update,
                gain: &gain,
            };
            let state = StateMut {
                value: &mut self.value,
                scale: &mut self.scale,
                offset: &mut self.offset,
            };
            vcc_core::decompress(
                &self.layout,
                DIMS,
                &self.items,
                &self.item_count,
                update,
                state,
                &threads,
            )
            .unwrap();
        });

        let mut x = std::mem::take(&mut self.x);
        bench.time(
            criterion,
            "expand",
            &title,
            (2 * n + 2 * all_segments) * row,
            || {
                vcc_core::expand(
                    &self.layout,
                    DIMS,
                    self.state(),
                    &self.token_slot,
                    &mut x,
                    &threads,
                )
                .unwrap();
            },
        );
    }
}
