//! Gives models that consist of one `ai.vcc` node that node's body, for comparing the bodies with an independent implementation
//! (`tests/bodies.py`).
//!
//! Usage: `body_models CASES`, a file of lines `call|inline IN OUT`. `call` adds the body to the file as a function, `inline` puts the
//! function's nodes in the place of the call.

use std::path::Path;

use vcc_passes::bodies::{self, BodyParams, Operator};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let cases = std::env::args().nth(1).ok_or("usage: body_models CASES")?;
    for line in std::fs::read_to_string(cases)?.lines() {
        write_model(line).map_err(|error| format!("{line}: {error}"))?;
    }
    Ok(())
}

fn write_model(line: &str) -> Result<()> {
    let [form, source, target] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("expected: call|inline IN OUT".into());
    };
    let mut model = onnx_model::Model::open(Path::new(source))?;
    let call = model.graph.node_ids().next().ok_or("no node")?;
    let node = model.graph.node(call);
    let op = Operator::ALL
        .into_iter()
        .find(|op| op.name() == node.op_type)
        .ok_or("not an operator of ai.vcc")?;
    let ladder = node.attr_ints("ladder").ok_or("no ladder")?;
    let opset = model.opset("").ok_or("no opset")?;
    let params = BodyParams {
        opset,
        ladder,
        capacity: None,
    };
    let function = bodies::function(op, &params);
    match form {
        "call" => model.add_function(function),
        "inline" => {
            model.graph.inline_function(call, &function)?;
        }
        _ => return Err("expected call or inline".into()),
    }
    model
        .verify()
        .map_err(|violations| format!("{violations:?}"))?;
    model.save(Path::new(target))?;
    Ok(())
}
