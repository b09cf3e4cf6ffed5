//! Threads and channels between the stages: order kept, memory bounded, errors in their place. Knows no
//! BERT.
