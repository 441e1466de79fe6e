//! Reading and writing .npz: a zip of .npy files, as NumPy writes them.
//!
//! The .npy header is read here rather than by a library: it is a few fields, the types include f16, and the only
//! zip methods NumPy uses are "stored" and "deflate". Any bytes give arrays or an error.

use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, Write};
use std::path::Path;

use half::f16;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::error::RunError;
use crate::tensors::{Array, Data, ElementType, Tensors};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads all arrays of an .npz file (f32, f64, f16, i64, i32, i8, u8, bool), in the file's order.
pub fn read_npz(path: &Path) -> Result<Tensors, RunError> {
    let failed = |reason: String| RunError::Npz {
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    read_from(BufReader::new(file)).map_err(failed)
}

/// Writes arrays as an .npz file that NumPy reads, uncompressed.
pub fn write_npz(path: &Path, tensors: &Tensors) -> Result<(), RunError> {
    let failed = |reason: String| RunError::Npz {
        path: path.to_owned(),
        reason,
    };
    let file = File::create(path).map_err(|e| failed(e.to_string()))?;
    write_to(BufWriter::new(file), tensors).map_err(failed)
}

/// [`read_npz`] of bytes in memory.
pub(crate) fn read_bytes(bytes: &[u8]) -> Result<Tensors, String> {
    read_from(Cursor::new(bytes))
}

/// [`write_npz`] to bytes in memory.
pub(crate) fn to_bytes(tensors: &Tensors) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    write_to(Cursor::new(&mut bytes), tensors)?;
    Ok(bytes)
}

fn read_from(reader: impl Read + Seek) -> Result<Tensors, String> {
    let mut archive = ZipArchive::new(reader).map_err(|e| format!("not an .npz file: {e}"))?;
    let mut all = Tensors::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| e.to_string())?;
        let file = entry.name().map_err(|e| e.to_string())?.into_owned();
        let name = file.strip_suffix(".npy").unwrap_or(&file).to_owned();
        let array = read_npy(&mut entry).map_err(|e| format!("array `{name}`: {e}"))?;
        all.insert(name, array);
    }
    Ok(all)
}

fn write_to(writer: impl Write + Seek, tensors: &Tensors) -> Result<(), String> {
    let mut archive = ZipWriter::new(writer);
    for (name, array) in tensors.iter() {
        let big = array.data().len().saturating_mul(8) > u32::MAX as usize / 2;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(big);
        archive
            .start_file(format!("{name}.npy"), options)
            .map_err(|e| e.to_string())?;
        write_npy(&mut archive, array).map_err(|e| e.to_string())?;
    }
    let mut writer = archive.finish().map_err(|e| e.to_string())?;
    writer.flush().map_err(|e| e.to_string())
}

/// What an .npy header says.
#[derive(Debug, PartialEq)]
struct Header {
    element_type: ElementType,
    shape: Vec<usize>,
}

fn read_npy(reader: &mut impl Read) -> Result<Array, String> {
    let mut start = [0u8; 8];
    reader.read_exact(&mut start).map_err(|e| e.to_string())?;
    let [.., major, _minor] = start;
    if !start.starts_with(MAGIC) {
        return Err("not in .npy format".into());
    }
    let length = match major {
        1 => {
            let mut b = [0u8; 2];
            reader.read_exact(&mut b).map_err(|e| e.to_string())?;
            u32::from(u16::from_le_bytes(b))
        }
        2 | 3 => {
            let mut b = [0u8; 4];
            reader.read_exact(&mut b).map_err(|e| e.to_string())?;
            u32::from_le_bytes(b)
        }
        v => return Err(format!("unknown .npy version {v}")),
    };
    if length > 1 << 16 {
        return Err(format!("a header of {length} bytes"));
    }
    let mut text = String::new();
    reader
        .take(u64::from(length))
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    let header = parse_header(&text)?;
    let size = match header.element_type {
        ElementType::F64 | ElementType::I64 => 8,
        ElementType::F32 | ElementType::I32 => 4,
        ElementType::F16 => 2,
        ElementType::I8 | ElementType::U8 | ElementType::Bool => 1,
    };
    let bytes = header
        .shape
        .iter()
        .try_fold(size as u64, |n, &d| n.checked_mul(d as u64))
        .ok_or_else(|| format!("a shape of {:?} is too large", header.shape))?;
    // Grows with what is really there, not with what the header promises; one byte more than promised is read, to
    // notice trailing bytes.
    let mut raw = Vec::new();
    reader
        .take(bytes.saturating_add(1))
        .read_to_end(&mut raw)
        .map_err(|e| e.to_string())?;
    if raw.len() as u64 != bytes {
        let found = if raw.len() as u64 > bytes {
            "more".into()
        } else {
            raw.len().to_string()
        };
        return Err(format!(
            "shape {:?} needs {bytes} bytes, the file has {found}",
            header.shape
        ));
    }
    Array::new(header.shape, decode(header.element_type, &raw)).map_err(|e| e.to_string())
}

fn decode(element_type: ElementType, raw: &[u8]) -> Data {
    /// Splits into elements of `N` bytes.
    fn words<const N: usize, T>(raw: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.chunks_exact(N)
            .map(|c| {
                let mut word = [0; N];
                word.copy_from_slice(c);
                f(word)
            })
            .collect()
    }
    match element_type {
        ElementType::F32 => Data::F32(words(raw, f32::from_le_bytes)),
        ElementType::F64 => Data::F64(words(raw, f64::from_le_bytes)),
        ElementType::F16 => Data::F16(words(raw, f16::from_le_bytes)),
        ElementType::I64 => Data::I64(words(raw, i64::from_le_bytes)),
        ElementType::I32 => Data::I32(words(raw, i32::from_le_bytes)),
        ElementType::I8 => Data::I8(words(raw, i8::from_le_bytes)),
        ElementType::U8 => Data::U8(raw.to_vec()),
        ElementType::Bool => Data::Bool(raw.iter().map(|&b| b != 0).collect()),
    }
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse_header(text: &str) -> Result<Header, String> {
    let malformed = || format!("malformed header {:?}", text.trim_end());
    let after = |key: &str| {
        let (_, rest) = text
            .split_once(&format!("'{key}':"))
            .ok_or_else(malformed)?;
        Ok::<_, String>(rest.trim_start())
    };
    let descr = after("descr")?
        .strip_prefix('\'')
        .and_then(|r| r.split_once('\''))
        .ok_or_else(malformed)?
        .0;
    let element_type = match descr {
        "<f4" => ElementType::F32,
        "<f8" => ElementType::F64,
        "<f2" => ElementType::F16,
        "<i8" => ElementType::I64,
        "<i4" => ElementType::I32,
        "|i1" => ElementType::I8,
        "|u1" => ElementType::U8,
        "|b1" => ElementType::Bool,
        other => {
            return Err(format!(
                "type {other:?} is not supported; supported are float16/32/64, int8/32/64, uint8 and bool, little-endian"
            ));
        }
    };
    let inside = after("shape")?
        .strip_prefix('(')
        .and_then(|r| r.split_once(')'))
        .ok_or_else(malformed)?
        .0;
    let shape: Vec<usize> = inside
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse().map_err(|_| malformed()))
        .collect::<Result<_, _>>()?;
    if !after("fortran_order")?.starts_with("False") && shape.iter().filter(|&&d| d > 1).count() > 1
    {
        return Err("Fortran order is not supported; save it with numpy.ascontiguousarray".into());
    }
    Ok(Header {
        element_type,
        shape,
    })
}

fn write_npy(writer: &mut impl Write, array: &Array) -> std::io::Result<()> {
    let descr = match array.element_type() {
        ElementType::F32 => "<f4",
        ElementType::F64 => "<f8",
        ElementType::F16 => "<f2",
        ElementType::I64 => "<i8",
        ElementType::I32 => "<i4",
        ElementType::I8 => "|i1",
        ElementType::U8 => "|u1",
        ElementType::Bool => "|b1",
    };
    let dims: String = array.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}",
        dims.trim_end()
    );
    // The whole of it ends in a newline at a multiple of 64 bytes; 10 bytes come before.
    header.push_str(&" ".repeat((64 - (header.len() + 11) % 64) % 64));
    header.push('\n');
    let length =
        u16::try_from(header.len()).map_err(|_| std::io::Error::other("too many dimensions"))?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    /// Writes in pieces, so that no second copy of the array is made.
    fn words<T: Copy, const N: usize>(
        w: &mut impl Write,
        v: &[T],
        f: impl Fn(T) -> [u8; N],
    ) -> std::io::Result<()> {
        let mut piece = Vec::new();
        for part in v.chunks(1 << 16) {
            piece.clear();
            part.iter().for_each(|&x| piece.extend_from_slice(&f(x)));
            w.write_all(&piece)?;
        }
        Ok(())
    }
    match array.data() {
        Data::F32(v) => words(writer, v, f32::to_le_bytes),
        Data::F64(v) => words(writer, v, f64::to_le_bytes),
        Data::F16(v) => words(writer, v, f16::to_le_bytes),
        Data::I64(v) => words(writer, v, i64::to_le_bytes),
        Data::I32(v) => words(writer, v, i32::to_le_bytes),
        Data::I8(v) => words(writer, v, i8::to_le_bytes),
        Data::U8(v) => writer.write_all(v),
        Data::Bool(v) => words(writer, v, |b| [u8::from(b)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tensors {
        let mut t = Tensors::new();
        t.insert("scalar", Array::new([], vec![1.5f32]).unwrap());
        t.insert("vector", Array::new([3], vec![1i64, -2, i64::MAX]).unwrap());
        t.insert(
            "half",
            Array::new([1, 2], vec![f16::from_f32(0.5), f16::NAN]).unwrap(),
        );
        t.insert(
            "double",
            Array::new([2, 1], vec![1e300, f64::NEG_INFINITY]).unwrap(),
        );
        t.insert("int", Array::new([2], vec![i32::MIN, 7]).unwrap());
        t.insert("byte", Array::new([2], vec![-1i8, 1]).unwrap());
        t.insert("ubyte", Array::new([2], vec![255u8, 0]).unwrap());
        t.insert(
            "bool",
            Array::new([2, 2], vec![true, false, false, true]).unwrap(),
        );
        t.insert("empty", Array::new([0, 5], Vec::<f32>::new()).unwrap());
        t
    }

    #[test]
    fn what_is_written_is_read_back() {
        let read = read_bytes(&to_bytes(&sample()).unwrap()).unwrap();
        let names: Vec<_> = read.iter().map(|(n, _)| n.to_owned()).collect();
        let expected: Vec<_> = sample().iter().map(|(n, _)| n.to_owned()).collect();
        assert_eq!(names, expected);
        for (name, array) in sample().iter() {
            let got = read.get(name).unwrap();
            assert_eq!(
                (got.shape(), got.element_type()),
                (array.shape(), array.element_type()),
                "{name}"
            );
            let bits = |a: &Array| {
                a.data()
                    .to_f64s()
                    .iter()
                    .map(|x| x.to_bits())
                    .collect::<Vec<_>>()
            };
            assert_eq!(bits(got), bits(array), "{name}");
        }
    }

    #[test]
    fn cut_and_flipped_files_give_errors_and_never_panic() {
        let bytes = to_bytes(&sample()).unwrap();
        for cut in 0..bytes.len() {
            assert!(read_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for i in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[i] ^= flip;
                let _ = read_bytes(&broken);
            }
        }
    }

    #[test]
    fn headers_that_promise_too_much_or_too_little_are_refused() {
        let mut npy = MAGIC.to_vec();
        npy.extend([1, 0, 70, 0]);
        npy.extend(
            format!(
                "{:<70}",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9), }"
            )
            .bytes(),
        );
        npy.extend([0; 16]);
        let e = read_npy(&mut npy.as_slice()).unwrap_err();
        assert!(e.contains("the file has 16"), "{e}");
        let mut npy = Vec::new();
        write_npy(&mut npy, &Array::new([2], vec![1i64, 2]).unwrap()).unwrap();
        npy.push(0);
        let e = read_npy(&mut npy.as_slice()).unwrap_err();
        assert!(e.contains("the file has more"), "{e}");
        assert!(
            parse_header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }")
                .unwrap_err()
                .contains("Fortran")
        );
        assert!(
            parse_header("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }")
                .unwrap_err()
                .contains(">f4")
        );
        assert!(
            parse_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }").is_err()
        );
        assert!(parse_header("{}").is_err());
    }
}
