mod clocks;
mod outages;
mod remembering;
mod sharing;
mod tls;
