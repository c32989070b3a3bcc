//! What an error of the server or the driver means: the one place where SQLSTATEs are read.
