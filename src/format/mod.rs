//! Every byte layout of the product that outlives a process: one layout, one file.
