//! What the end-to-end tests share: fixtures, conversions, sessions, random numbers.
//!
//! ONNX Runtime (`ORT_DYLIB_PATH`) and the operator library (`VCC_OPS_LIB`) must be there: a test without them fails.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests; each test uses some"
)]

pub(crate) mod gap;
pub(crate) mod record;
pub(crate) mod tolerance;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use onnx_model::{Model, NewNode, NodeId, Tensor};
use tempfile::NamedTempFile;
use vcc_passes::pipeline::Hooks;
use vcc_passes::{Conversion, EncoderOptions, Error, Form, Request};
use vcc_run::{
    Array, Data, Inputs, Optimization, Outputs, Padding, PortInfo, RandomOptions, Runtime, Session,
    SessionOptions, find_ops_library, random_inputs,
};

/// The folder of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

pub(crate) fn runtime() -> Runtime {
    Runtime::load(None).unwrap_or_else(|e| panic!("these tests need ONNX Runtime: {e}"))
}

pub(crate) fn library() -> PathBuf {
    find_ops_library(None).unwrap_or_else(|e| panic!("these tests need the operator library: {e}"))
}

/// A model of the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) expect: String,
    pub(crate) vocab: i64,
    pub(crate) max_length: Option<usize>,
    pub(crate) length: Option<usize>,
    pub(crate) batch: Option<usize>,
    /// `a` and `b` of inputs that have `a n + b` elements for `n` tokens (sound, pictures).
    pub(crate) samples: Option<(usize, usize)>,
    /// One of many that are checked in less depth.
    pub(crate) in_zoo: bool,
}

impl Fixture {
    pub(crate) fn is_refused(&self) -> bool {
        self.expect.starts_with("refuse:")
    }

    /// How many tokens inputs of that length have: where the model fixes the number, that many.
    pub(crate) fn tokens(&self, length: usize) -> usize {
        self.length.unwrap_or(length)
    }

    /// Random inputs with that many tokens; sizes that the model fixes are left at their value.
    pub(crate) fn inputs(&self, ports: &[PortInfo], options: RandomOptions) -> Inputs {
        let tokens = options.length;
        let options = RandomOptions {
            batch: self.batch.unwrap_or(options.batch),
            length: self.samples.map_or(tokens, |(a, b)| a * tokens + b),
            ..options
        };
        random_inputs(ports, &options).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// Every model of the manifest and every golden original.
pub(crate) fn everything() -> Vec<Fixture> {
    let mut all = manifest();
    let golden = std::fs::read_dir(fixtures().join("golden")).unwrap();
    let paths = golden.map(|e| e.unwrap().path());
    let names = paths
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned());
    all.extend(names.map(|name| fixture(&name)));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Does the work for every model on all processors; returns what it complains about, in the models' order.
pub(crate) fn complaints(
    models: &[Fixture],
    work: impl Fn(&Fixture) -> Vec<String> + Sync,
) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let some = || -> Vec<(usize, Vec<String>)> {
        let mine = std::iter::from_fn(|| {
            let i = next.fetch_add(1, Ordering::Relaxed);
            models.get(i).map(|model| (i, work(model)))
        });
        mine.collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        let results = threads.into_iter().map(|t| t.join().unwrap());
        results.flatten().collect::<Vec<_>>()
    });
    all.sort();
    all.into_iter().flat_map(|(_, texts)| texts).collect()
}

/// Every model of the manifest; the originals of the golden cases are not among them.
pub(crate) fn manifest() -> Vec<Fixture> {
    let text = std::fs::read_to_string(fixtures().join("manifest.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    table["model"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            let number = |key: &str| m.get(key).map(|v| v.as_integer().unwrap());
            let size = |key: &str| number(key).map(|v| usize::try_from(v).unwrap());
            let samples = m.get("samples").map(|pair| {
                let of = |i: usize| usize::try_from(pair[i].as_integer().unwrap()).unwrap();
                (of(0), of(1))
            });
            let file = m["file"].as_str().unwrap();
            Fixture {
                name: m["name"].as_str().unwrap().to_owned(),
                path: fixtures().join(file),
                expect: m["expect"].as_str().unwrap().to_owned(),
                vocab: number("vocab").unwrap_or(100),
                max_length: size("max_length"),
                length: size("length"),
                batch: size("batch"),
                samples,
                in_zoo: file.starts_with("zoo/"),
            }
        })
        .collect()
}

/// The model of that name, or the original of the golden case of that name.
pub(crate) fn fixture(name: &str) -> Fixture {
    manifest()
        .into_iter()
        .find(|f| f.name == name)
        .unwrap_or_else(|| {
            let path = fixtures().join(format!("golden/{name}.onnx"));
            assert!(path.is_file(), "{name} is not a fixture");
            Fixture {
                name: name.to_owned(),
                path,
                expect: "convert".to_owned(),
                vocab: 100,
                max_length: Some(288),
                length: None,
                batch: None,
                samples: None,
                in_zoo: false,
            }
        })
}

/// The codes of the refusals of each stream's blocks; none for a block that can be converted.
pub(crate) fn codes(model: &Fixture) -> Result<Vec<Vec<Option<&'static str>>>, Error> {
    let mut hooks = Hooks {
        verify_each: true,
        after: &mut |_, _| {},
        stop_after: Some("blocks"),
    };
    let original = Model::open(&model.path).unwrap();
    let stopped = vcc_passes::convert(original, Request::default(), Form::Functions, &mut hooks)?;
    let of_block = |b: &token_axes::Block| b.axes.as_ref().err().map(|r| r.code.as_str());
    let streams = stopped.analysis.unwrap().streams;
    let of_stream = |s: &token_axes::Stream| s.blocks.iter().map(of_block).collect();
    Ok(streams.iter().map(of_stream).collect())
}

/// The options `key=value` of the command line, separated by blanks.
pub(crate) fn options(text: &str) -> EncoderOptions {
    let mut o = EncoderOptions::default();
    for option in text.split_whitespace() {
        let (key, value) = option.split_once('=').unwrap();
        match key {
            "vip" => o.vip = Some(value.parse().unwrap()),
            "vip-capacity" => o.vip_capacity = Some(value.parse().unwrap()),
            "ladder" => o.ladder = Some(value.parse().unwrap()),
            "refine" => o.refine = Some(value.parse().unwrap()),
            "blocks" => o.blocks = Some(value.parse().unwrap()),
            "reselect-every" => o.reselect_every = Some(value.parse().unwrap()),
            "device" => o.device = Some(value.parse().unwrap()),
            "mask-input" => o.mask_input = Some(value.to_owned()),
            _ => panic!("unknown option {key}"),
        }
    }
    o
}

/// Converts with the verifier after each pass.
pub(crate) fn try_convert(path: &Path, text: &str, form: Form) -> Result<Conversion, Error> {
    let mut hooks = Hooks {
        verify_each: true,
        after: &mut |_, _| {},
        stop_after: None,
    };
    let request = Request::Options(options(text), Default::default());
    vcc_passes::convert(Model::open(path).unwrap(), request, form, &mut hooks)
}

/// The bytes of the converted model.
pub(crate) fn convert(path: &Path, text: &str, form: Form) -> Vec<u8> {
    match try_convert(path, text, form) {
        Ok(c) => c.model.to_vec().unwrap(),
        Err(e) => panic!("{} with {text}: {e}", path.display()),
    }
}

/// With which implementation of the operators a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The kernels of the operator library.
    Library,
    /// The function bodies (or none needed).
    Bodies,
}

pub(crate) fn open(name: &str, bytes: &[u8], engine: Engine) -> Session {
    open_with(name, bytes, engine, 1)
}

pub(crate) fn open_with(name: &str, bytes: &[u8], engine: Engine, threads: usize) -> Session {
    open_as(name, bytes, engine, threads, Optimization::All)
}

/// With one thread and as far optimised as that.
pub(crate) fn open_at(name: &str, bytes: &[u8], engine: Engine, at: Optimization) -> Session {
    open_as(name, bytes, engine, 1, at)
}

fn open_as(
    name: &str,
    bytes: &[u8],
    engine: Engine,
    threads: usize,
    optimization: Optimization,
) -> Session {
    let options = SessionOptions {
        threads,
        optimization,
        ops_library: (engine == Engine::Library).then(library),
        ..Default::default()
    };
    Session::from_bytes(&runtime(), name, bytes, &options)
        .unwrap_or_else(|e| panic!("{name}, {engine:?}: {e}"))
}

pub(crate) fn run(session: &mut Session, inputs: &Inputs) -> Outputs {
    session
        .run(inputs)
        .unwrap_or_else(|e| panic!("{}: {e}", session.model()))
}

pub(crate) fn i64s(array: &Array) -> &[i64] {
    match array.data() {
        Data::I64(v) => v,
        other => panic!("not int64 but {}", other.element_type()),
    }
}

pub(crate) fn f32s(array: &Array) -> &[f32] {
    match array.data() {
        Data::F32(v) => v,
        other => panic!("not float32 but {}", other.element_type()),
    }
}

/// max|a-b| / max|a| over the elements that are finite in both; infinite where one alone is not finite, or differently so.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (mut difference, mut largest) = (0.0f64, 0.0f64);
    for (&x, &y) in a.iter().zip(b) {
        if x.is_finite() && y.is_finite() {
            difference = difference.max((x - y).abs());
            largest = largest.max(x.abs());
        } else if x != y && !(x.is_nan() && y.is_nan()) {
            return f64::INFINITY;
        }
    }
    if difference == 0.0 {
        0.0
    } else {
        difference / largest
    }
}

/// [`relative`] of two arrays, infinite if they are of different shape or type. A single logit comes out near 0 at times; it is measured
/// against its usual size.
pub(crate) fn difference(a: &Array, b: &Array) -> f64 {
    if a.shape() != b.shape() || a.element_type() != b.element_type() {
        return f64::INFINITY;
    }
    let (mut x, mut y) = (a.data().to_f64s(), b.data().to_f64s());
    if a.shape().last() == Some(&1) {
        x.push(0.01);
        y.push(0.01);
    }
    relative(&x, &y)
}

/// The same file with more graph outputs: values of that name, tensors of that ONNX data type.
///
/// Repeated occurrences of a message field are merged by every protobuf reader, so a second `graph` that holds only outputs
/// adds them to the first.
pub(crate) fn with_outputs(model: &[u8], outputs: &[(&str, i32)]) -> Vec<u8> {
    let mut graph = Vec::new();
    for (name, dtype) in outputs {
        let tensor = [varint(1 << 3), varint(*dtype as usize)].concat();
        let info = [
            message(1, name.as_bytes()),
            message(2, &message(1, &tensor)),
        ]
        .concat();
        graph.extend(message(12, &info));
    }
    [model.to_vec(), message(7, &graph)].concat()
}

/// Bytes as a file, for as long as it is held.
pub(crate) fn scratch(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Random inputs of three sequences for a model of the manifest.
pub(crate) fn three(
    model: &Fixture,
    ports: &[PortInfo],
    length: usize,
    padding: Padding,
) -> Inputs {
    let options = RandomOptions {
        batch: 3,
        length,
        padding,
        ids: (2, model.vocab),
        ..RandomOptions::default()
    };
    model.inputs(ports, options)
}

/// The model with attentions that look at few tokens. Random weights make every token look at all tokens alike, and then no mistake of
/// a position shows in an output.
pub(crate) fn sharp(path: &Path) -> Vec<u8> {
    let mut model = Model::open(path).unwrap();
    let graph = &mut model.graph;
    let factor = graph.add_initializer("sharp", Tensor::scalar_f32(30.0));
    let nodes: Vec<NodeId> = graph.node_ids().collect();
    for id in nodes {
        if graph.node(id).op_type != "Softmax" {
            continue;
        }
        let scores = graph.node(id).inputs[0];
        let product = graph.new_value("sharp_scores");
        graph.add_node(NewNode {
            op_type: "Mul".to_owned(),
            inputs: vec![scores, Some(factor)],
            outputs: vec![Some(product)],
            ..NewNode::default()
        });
        graph.set_input(id, 0, Some(product));
    }
    graph.sort().unwrap();
    model.to_vec().unwrap()
}

/// A protobuf field that holds bytes or a message.
pub(crate) fn message(field: usize, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Pseudo-random numbers (SplitMix64), the same on every machine.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Uniform in `-1..1`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}
