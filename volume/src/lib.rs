//! An open volume over any block device: the header store, the segment map, the gate.
