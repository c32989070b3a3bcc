//! The simulation: being written by builder SIM (builder SUITES: leave this folder to it, do conformance and memory to full depth).
