//! Buffers and launches, run in this process or by a program that watches memory.

use std::cell::RefCell;

use vcc_cuda_emu::Schedule;
use vcc_ops::launch::{Argument, Launch, Pointer};

/// Data that a buffer can hold.
pub(crate) trait Plain: Copy {
    fn bytes(values: &[Self]) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! plain {
    ($($ty:ty),*) => { $(impl Plain for $ty {
        fn bytes(values: &[Self]) -> Vec<u8> {
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        fn from_bytes(bytes: &[u8]) -> Vec<Self> {
            bytes.chunks_exact(size_of::<Self>()).map(|x| Self::from_le_bytes(x.try_into().unwrap())).collect()
        }
    })* };
}
plain!(u8, i64, f32, half::f16, half::bf16);

/// Memory that starts at a multiple of 256 bytes, as a device's does, or `shift` bytes after one.
pub(crate) struct Buffer {
    memory: Vec<u128>,
    start: usize,
    pub(crate) len: usize,
    /// Whether it has been given contents.
    pub(crate) filled: bool,
}

/// What an element holds that nobody has written: a NaN, a negative number.
const JUNK: u8 = 0xff;

impl Buffer {
    fn new(bytes: &[u8], filled: bool, shift: usize) -> Self {
        let memory = vec![u128::MAX; bytes.len().div_ceil(16) + 64];
        let start = (256 - memory.as_ptr().addr() % 256) % 256 + shift;
        let mut buffer = Self {
            memory,
            start,
            len: bytes.len(),
            filled,
        };
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    pub(crate) fn pointer(&self) -> Pointer {
        (self.memory.as_ptr().addr() + self.start) as Pointer
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: any memory can be read as bytes.
        let all = unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().cast::<u8>(), self.memory.len() * 16)
        };
        &all[self.start..][..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: any memory can be written as bytes, and every value of them is a u128.
        let all = unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.as_mut_ptr().cast::<u8>(),
                self.memory.len() * 16,
            )
        };
        &mut all[self.start..][..self.len]
    }

    /// Whether what lies around the buffer was left alone.
    fn margins_are_whole(&self) -> bool {
        // SAFETY: as in `bytes`.
        let all = unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().cast::<u8>(), self.memory.len() * 16)
        };
        let (before, after) = (&all[..self.start], &all[self.start + self.len..]);
        before.iter().chain(after).all(|&byte| byte == JUNK)
    }
}

/// Runs launches on the buffers.
pub(crate) trait Run {
    fn run(&self, buffers: &mut [Buffer], launches: &[Launch]);
}

/// In this process.
impl Run for Schedule {
    fn run(&self, buffers: &mut [Buffer], launches: &[Launch]) {
        for launch in launches {
            // SAFETY: the cases make buffers of the sizes that the operators' specification gives.
            let done = unsafe { vcc_cuda_emu::launch(launch, *self) };
            assert_eq!(done, Ok(()), "{launch:?}");
        }
        for buffer in buffers {
            assert!(
                buffer.margins_are_whole(),
                "{launches:?} wrote outside of a buffer"
            );
        }
    }
}

/// Buffers by address.
pub(crate) struct Device<'a> {
    runner: &'a dyn Run,
    buffers: RefCell<Vec<Buffer>>,
    shift: usize,
}

impl<'a> Device<'a> {
    /// With `shift` not 0, rows are not aligned as vectors need it.
    pub(crate) fn new(runner: &'a dyn Run, shift: usize) -> Self {
        Self {
            runner,
            buffers: RefCell::default(),
            shift,
        }
    }

    fn add(&self, bytes: &[u8], filled: bool) -> Pointer {
        let buffer = Buffer::new(bytes, filled, self.shift);
        let pointer = buffer.pointer();
        self.buffers.borrow_mut().push(buffer);
        pointer
    }

    /// A buffer with contents.
    pub(crate) fn input<T: Plain>(&self, values: &[T]) -> Pointer {
        self.add(&T::bytes(values), true)
    }

    /// A buffer without: it holds junk.
    pub(crate) fn output<T: Plain>(&self, len: usize) -> Pointer {
        self.add(&vec![JUNK; len * size_of::<T>()], false)
    }

    pub(crate) fn run(&self, launches: Result<Vec<Launch>, vcc_ops::launch::Error>) {
        let launches = launches.unwrap();
        let mut buffers = self.buffers.borrow_mut();
        self.runner.run(&mut buffers, &launches);
        // What a run had as an output, the next may read.
        let arguments = launches.iter().flat_map(|launch| &launch.arguments);
        for argument in arguments {
            for buffer in buffers.iter_mut() {
                buffer.filled |= *argument == Argument::Pointer(buffer.pointer());
            }
        }
    }

    pub(crate) fn read<T: Plain>(&self, pointer: Pointer) -> Vec<T> {
        let buffers = self.buffers.borrow();
        let buffer = buffers
            .iter()
            .find(|buffer| buffer.pointer() == pointer)
            .unwrap();
        T::from_bytes(buffer.bytes())
    }
}
