//! Opens LUKS2 keyslots and plans their changes.
