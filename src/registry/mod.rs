//! The managing server (10): matches borrowers with offers, lends, bills. In reading order:

pub mod resource_db;
