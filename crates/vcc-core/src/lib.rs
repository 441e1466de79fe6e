//! The VCC algorithm: partition, tree state, select, compress, decompress, expand.
