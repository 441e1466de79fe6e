//! The samples: sizes for the symbols of a graph's inputs.
//!
//! Every symbol gets its own primes, none of which is a number of the model, so that a size in the graph tells where it comes
//! from. Symbols that turn out to be equal are merged and the graph is evaluated again.

use std::collections::{BTreeMap, BTreeSet};

use onnx_model::{DataType, Dimension, Graph, Model, NodeId, ValueId};

use super::facts::{Facts, SizeConflict};
use super::sizes::{Primes, Role, SAMPLES, SCALES, Scale};
use super::{evaluate, images};

/// How often symbols are merged at most. Each round merges all that show, so that a few are enough.
const ROUNDS: usize = 16;

/// What the elements of the graph inputs are assumed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// 1 everywhere.
    Ones,
    /// 1, but as many as there are of anything where an input has a number for each batch row: what counts tokens counts all of them.
    Counts,
    /// 0 everywhere.
    Zeros,
    /// 1, but 0 in the last third of the last axis.
    RightPadded,
}

/// One assignment of sizes to the symbols of the graph inputs and contents to the inputs.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The size of every symbol. A dimension without a name has the symbol `input:axis`.
    pub dims: BTreeMap<String, i64>,
    /// The content of the graph inputs.
    pub fill: Fill,
    /// Symbols that may turn out to be numbers: channels and widths, never batch or tokens.
    pub features: BTreeSet<String>,
}

/// The facts of a graph at all samples.
#[derive(Debug)]
pub struct Evaluation {
    /// The samples, four of them.
    pub samples: Vec<Sample>,
    /// The facts at each sample.
    pub facts: Vec<Facts>,
    /// For every symbol of the inputs the symbol that stands for all equal to it; for most it is itself.
    pub symbols: BTreeMap<String, String>,
    /// Symbols that stand for a number, although they are declared dynamic.
    pub numbers: BTreeMap<String, i64>,
    /// Symbols that stand for a size computed from others; see [`complete`].
    pub computed: BTreeSet<String>,
}

/// The size of an input's dimension, or its symbol.
pub(super) fn symbol_of(input: &str, axis: usize, dim: &Dimension) -> Result<i64, String> {
    match dim {
        Dimension::Value(size) if *size >= 0 => Ok(*size),
        Dimension::Param(name) if !name.is_empty() => Err(name.clone()),
        _ => Err(format!("{input}:{axis}")),
    }
}

/// A symbol of the graph inputs.
#[derive(Clone, Debug)]
struct Symbol {
    name: String,
    role: Role,
    /// It is the length of audio too.
    is_long: bool,
    feature: bool,
}

/// The symbols of the graph inputs, in order of first use.
fn symbols(model: &Model) -> Vec<Symbol> {
    let graph = &model.graph;
    let mut found: Vec<Symbol> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    for &v in graph.inputs() {
        if graph.is_initializer(v) {
            continue;
        }
        let value = graph.value(v);
        let Some(info) = value.info() else { continue };
        let Some(dims) = info.dims.as_deref() else {
            continue;
        };
        let float = matches!(
            info.dtype,
            Some(DataType::Float | DataType::Float16 | DataType::Double | DataType::Bfloat16)
        );
        for (axis, d) in dims.iter().enumerate() {
            let Err(name) = symbol_of(&value.name, axis, d) else {
                continue;
            };
            let role = match (axis, dims.len()) {
                (0, _) => Role::Batch,
                (2 | 3, 4) if float => Role::Image,
                (a, 2 | 3) if float && a + 1 == dims.len() => Role::Long,
                _ => Role::Token,
            };
            let feature = float && axis > 0 && dims.len() >= 3;
            match index.get(&name).and_then(|&i| found.get_mut(i)) {
                Some(s) => {
                    s.role = s.role.min(role);
                    s.is_long |= role == Role::Long;
                    s.feature &= feature;
                }
                None => {
                    index.insert(name.clone(), found.len());
                    found.push(Symbol {
                        name,
                        role,
                        is_long: role == Role::Long,
                        feature,
                    });
                }
            }
        }
    }
    found
}

/// Numbers that occur in the model as sizes: no symbol gets one of them.
fn numbers_in(model: &Model) -> BTreeSet<i64> {
    let graph = &model.graph;
    let mut numbers = BTreeSet::new();
    for v in graph.value_ids() {
        let declared = graph
            .value(v)
            .info()
            .and_then(|i| i.dims.as_deref())
            .unwrap_or_default();
        numbers.extend(declared.iter().filter_map(|d| {
            if let Dimension::Value(size) = d {
                Some(*size)
            } else {
                None
            }
        }));
        if let Some(tensor) = graph.tensor(v) {
            numbers.extend(tensor.dims());
            if tensor.len().is_some_and(|n| n <= 16) && tensor.dtype() == DataType::Int64 {
                // Indices and axes are small; sizes that are small are dimensions of some tensor as well.
                numbers.extend(
                    tensor
                        .to_i64s()
                        .unwrap_or_default()
                        .into_iter()
                        .filter(|&x| x >= 8),
                );
            }
        }
    }
    numbers
}

/// Symbols that are equal, those that are numbers, and those that are sizes computed from others.
#[derive(Clone, Default)]
struct Merged {
    parent: BTreeMap<String, String>,
    numbers: BTreeMap<String, i64>,
    computed: BTreeMap<String, [i64; SAMPLES]>,
    /// There were more rounds to go: a hostile graph, which is not looked at any further.
    unfinished: bool,
}

impl Merged {
    fn root<'a>(&'a self, symbol: &'a str) -> &'a str {
        let mut at = symbol;
        while let Some(next) = self.parent.get(at) {
            at = next;
        }
        at
    }

    /// Makes the two the same; says whether that is news.
    fn note(&mut self, conflict: &SizeConflict) -> bool {
        let (a, b) = (
            self.root(&conflict.a).to_owned(),
            self.root(&conflict.b).to_owned(),
        );
        let number = conflict
            .b
            .parse()
            .ok()
            .or_else(|| self.numbers.get(&b).copied());
        if a == b || (self.numbers.contains_key(&a) && number.is_some()) {
            return false;
        }
        if let Some(number) = number {
            self.numbers.insert(a.clone(), number);
        }
        if conflict.b.parse::<i64>().is_err() {
            self.parent.insert(b, a);
        }
        true
    }

    /// Gives symbols that at every sample meet another size, one computed from other symbols, that size: the tokens of a mask
    /// are those that a convolution leaves. Each only once: a size may not be computed from itself. Says whether that is news.
    fn note_computed(&mut self, runs: &[(Facts, Vec<SizeConflict>)]) -> bool {
        let mut met: BTreeMap<(NodeId, &str), Vec<i64>> = BTreeMap::new();
        for b in runs.iter().flat_map(|(facts, _)| &facts.baked) {
            met.entry((b.node, &b.symbol)).or_default().push(b.literal);
        }
        let mut news = false;
        for ((_, symbol), sizes) in met {
            let distinct: BTreeSet<i64> = sizes.iter().copied().filter(|&n| n > 1).collect();
            let root = self.root(symbol).to_owned();
            let is_open = !self.numbers.contains_key(&root) && !self.computed.contains_key(&root);
            if let (Ok(sizes), SAMPLES, true) = (sizes.try_into(), distinct.len(), is_open) {
                self.computed.insert(root, sizes);
                news = true;
            }
        }
        news
    }
}

/// A graph and what is known of its symbols.
struct Search<'a> {
    model: &'a Model,
    symbols: Vec<Symbol>,
    /// Numbers of the model, see [`numbers_in`].
    taken: BTreeSet<i64>,
}

impl Search<'_> {
    /// The samples for what is known of the symbols.
    fn samples(&self, merged: &Merged, scale: Scale) -> Vec<Sample> {
        // What is audio in one input and tokens in another is tokens only if no more than one sample makes a token.
        let may_be_long = scale.long > SCALES[0].long;
        let mut roles: Vec<(&str, Role, bool)> = Vec::new();
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        for s in &self.symbols {
            let root = merged.root(&s.name);
            match index.get(root).and_then(|&i| roles.get_mut(i)) {
                Some((_, role, is_long)) => {
                    *role = (*role).min(s.role);
                    *is_long |= s.is_long;
                }
                None => {
                    index.insert(root, roles.len());
                    roles.push((root, s.role, s.is_long));
                }
            }
        }
        let mut primes = Primes::without(self.taken.clone());
        let mut sizes: BTreeMap<&str, [i64; SAMPLES]> = BTreeMap::new();
        // Batches first: they get the smallest.
        for wanted in [Role::Batch, Role::Token, Role::Image, Role::Long] {
            let role = |role: Role, is_long: bool| {
                if role == Role::Token && is_long && may_be_long {
                    Role::Long
                } else {
                    role
                }
            };
            for (name, ..) in roles.iter().filter(|(_, r, l)| role(*r, *l) == wanted) {
                let fixed = merged.numbers.get(*name).map(|&n| [n; SAMPLES]);
                // A symbol that is computed takes its primes all the same: the others keep theirs.
                let own = fixed.unwrap_or_else(|| primes.sizes(wanted, scale));
                sizes.insert(name, merged.computed.get(*name).copied().unwrap_or(own));
            }
        }
        let size = |s: &Symbol, i: usize| {
            sizes
                .get(merged.root(&s.name))
                .and_then(|all| all.get(i))
                .copied()
        };
        let sample = |(i, fill)| Sample {
            dims: self
                .symbols
                .iter()
                .filter_map(|s| Some((s.name.clone(), size(s, i)?)))
                .collect(),
            fill,
            features: self
                .symbols
                .iter()
                .filter(|s| s.feature)
                .map(|s| s.name.clone())
                .collect(),
        };
        [Fill::Ones, Fill::Counts, Fill::Zeros, Fill::RightPadded]
            .into_iter()
            .enumerate()
            .map(sample)
            .collect()
    }

    /// Evaluates the graph, merging symbols, until nothing new shows to be equal. What differs at every sample is equal;
    /// what differs at some of them only is a coincidence of sizes.
    fn settle(&self, mut merged: Merged, scale: Scale) -> (Evaluation, Merged) {
        // At other sizes others are computed.
        merged.computed.clear();
        for round in 0.. {
            let samples = self.samples(&merged, scale);
            let runs: Vec<_> = samples
                .iter()
                .map(|s| evaluate::run(self.model, s))
                .collect();
            let in_all =
                |c: &&SizeConflict| runs.iter().all(|(_, conflicts)| conflicts.contains(c));
            let first = runs.first().map_or(&[][..], |(_, conflicts)| conflicts);
            let news = first
                .iter()
                .filter(in_all)
                .fold(false, |news, c| merged.note(c) | news)
                || merged.note_computed(&runs);
            if !news || round == ROUNDS {
                merged.unfinished = news;
                let root = |s: &Symbol| (s.name.clone(), merged.root(&s.name).to_owned());
                let mut facts: Vec<Facts> = runs.into_iter().map(|(facts, _)| facts).collect();
                settle_baked(&mut facts, &samples);
                let symbols = self.symbols.iter().map(root).collect();
                return (
                    Evaluation {
                        samples,
                        facts,
                        symbols,
                        numbers: merged.numbers.clone(),
                        computed: merged.computed.keys().cloned().collect(),
                    },
                    merged,
                );
            }
        }
        unreachable!("the loop has no end but the return")
    }
}

/// The facts at four samples, see [`explore`].
pub fn evaluate_samples(model: &Model) -> Vec<Facts> {
    explore(model).facts
}

/// Evaluates the graph at four samples. Sizes that the graph cannot work with are changed: images and audio are made as small as
/// they may be, numbers of tokens multiples of a window, height and width of an image those it was made for.
pub fn explore(model: &Model) -> Evaluation {
    let search = Search {
        model,
        symbols: symbols(model),
        taken: numbers_in(model),
    };
    let [mut scale, larger @ ..] = SCALES;
    let (mut best, mut merged) = search.settle(Merged::default(), scale);
    if search
        .symbols
        .iter()
        .any(|s| s.role == Role::Image || s.is_long)
    {
        let mut doubts = best.doubts(&model.graph);
        for next in larger {
            if doubts == (0, 0) || merged.unfinished {
                break;
            }
            let (found, symbols) = search.settle(Merged::default(), next);
            let now = found.doubts(&model.graph);
            if now < doubts {
                (best, merged, scale, doubts) = (found, symbols, next, now);
            }
        }
    }
    for token in [8, 16, 32] {
        if best.failures() == 0 {
            return best;
        }
        if search.symbols.iter().any(|s| s.role == Role::Token) {
            let (next, _) = search.settle(merged.clone(), Scale { token, ..scale });
            if next.doubts(&model.graph) < best.doubts(&model.graph) {
                best = next;
            }
        }
    }
    let is_free =
        |s: &&Symbol| s.role == Role::Image && !merged.numbers.contains_key(merged.root(&s.name));
    let edges: Vec<&Symbol> = search.symbols.iter().filter(is_free).collect();
    if !edges.is_empty() {
        for edge in images::candidates(model, &best) {
            let mut fixed = merged.clone();
            fixed.numbers.extend(
                edges
                    .iter()
                    .map(|s| (merged.root(&s.name).to_owned(), edge)),
            );
            let (next, _) = search.settle(fixed, scale);
            if next.doubts(&model.graph) < best.doubts(&model.graph) {
                best = next;
            }
        }
    }
    best
}

/// Gives the symbols that stand for sizes computed from others what these are at a sample of other sizes.
pub fn complete(model: &Model, found: &Evaluation, sample: &mut Sample) {
    if found.computed.is_empty() {
        return;
    }
    let (facts, _) = evaluate::run(model, sample);
    for met in &facts.baked {
        let root = found.symbols.get(&met.symbol);
        if root.is_some_and(|r| found.computed.contains(r)) {
            let equal = found.symbols.iter().filter(|(_, r)| Some(*r) == root);
            for (symbol, _) in equal {
                sample.dims.insert(symbol.clone(), met.literal);
            }
        }
    }
}

impl Evaluation {
    /// How many nodes found two sizes that differ, over all samples.
    fn failures(&self) -> usize {
        self.facts.iter().map(|f| f.differing.len()).sum()
    }

    /// What tells of unsuitable samples: how many values have no shape, or an axis that at some sample is nothing or does not tell
    /// it from another, and how many windows leave the same number of places at all samples; then, the failures. A node that
    /// fails hides the failures behind it, so that these alone tell little.
    fn doubts(&self, graph: &Graph) -> (usize, usize) {
        let sizes = |v: ValueId, axis: usize| -> Option<Vec<i64>> {
            let size = |f: &Facts| Some(f.shape(v)?.get(axis).copied().unwrap_or(1));
            self.facts.iter().map(size).collect()
        };
        let varies = |sizes: &Vec<i64>| sizes.iter().any(|s| Some(s) != sizes.first());
        let is_blurred = |sizes: Vec<i64>| {
            let distinct: BTreeSet<i64> = sizes.iter().copied().collect();
            varies(&sizes) && (distinct.len() < SAMPLES || distinct.first() < Some(&2))
        };
        let is_doubtful = |v: ValueId| {
            let ranks = self.facts.iter().map(|f| Some(f.shape(v)?.len()));
            let rank = ranks.map(|r| r.unwrap_or(usize::MAX)).max().unwrap_or(0);
            rank == usize::MAX || (0..rank).filter_map(|a| sizes(v, a)).any(is_blurred)
        };
        let is_window_too_large = |id: NodeId| {
            let node = graph.node(id);
            let is_window = node.op_type.contains("Conv") || node.op_type.ends_with("Pool");
            let (Some(&Some(x)), Some(&Some(y))) = (node.inputs.first(), node.outputs.first())
            else {
                return false;
            };
            let rank = self
                .facts
                .iter()
                .find_map(|f| f.shape(x))
                .map_or(0, <[i64]>::len);
            let levels = |axis: usize| {
                sizes(x, axis).is_some_and(|s| varies(&s))
                    && sizes(y, axis).is_some_and(|s| !varies(&s))
            };
            is_window && !node.op_type.starts_with("Global") && (2..rank).any(levels)
        };
        let values = graph.value_ids().filter(|&v| is_doubtful(v)).count();
        let windows = graph.node_ids().filter(|&n| is_window_too_large(n));
        (values + windows.count(), self.failures())
    }
}

/// Keeps those sizes inside the graph that are the same number at every sample where they show: at several, or at just those
/// where the symbol is larger (a table that is too short).
fn settle_baked(facts: &mut [Facts], samples: &[Sample]) {
    let all: Vec<_> = facts.iter().flat_map(|f| f.baked.iter().cloned()).collect();
    let mut places: BTreeMap<(NodeId, String), Vec<i64>> = BTreeMap::new();
    for b in all {
        places
            .entry((b.node, b.symbol))
            .or_default()
            .push(b.literal);
    }
    for f in facts {
        f.baked.retain(|b| {
            let met = places
                .get(&(b.node, b.symbol.clone()))
                .map_or(&[][..], Vec::as_slice);
            let larger = samples
                .iter()
                .filter(|s| s.dims.get(&b.symbol).is_some_and(|&size| size > b.literal));
            (met.len() > 1 || larger.count() == met.len()) && met.iter().all(|&l| l == b.literal)
        });
    }
}
