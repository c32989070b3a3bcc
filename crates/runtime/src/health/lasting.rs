use tidings_domain::{Error, ErrorKind};

/// A fault for as long as it lasts, in the words that were said of it first. Each try at a server that is away fails in a way
/// of its own (refused, reset, no answer), and a part that said each would fill the log.
#[derive(Debug, Default)]
pub struct LastingFault(Option<Said>);

#[derive(Debug)]
struct Said {
    /// What an outage was met at; none of a fault that is no outage.
    outage_of: Option<String>,
    chain: String,
}

impl LastingFault {
    /// The chain of `error`; of an outage that was told already, the one that was told first.
    pub fn reason(&mut self, error: &Error) -> &str {
        let outage_of = (error.kind == ErrorKind::Unavailable).then(|| {
            let tried = error.context.split(':').next().unwrap_or_default();
            tried.to_owned()
        });
        let is_told = self.0.as_ref().is_some_and(|said| outage_of.is_some() && said.outage_of == outage_of);
        if !is_told {
            self.0 = None;
        }
        &self.0.get_or_insert_with(|| Said { outage_of, chain: error.chain() }).chain
    }

    /// It is over: the next one is told anew.
    pub fn ended(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_what_a_person_mends_each_time() {
        let refused =
            Error::unavailable("connect to the broker").with_source(std::io::Error::other("refused"));
        let silent = Error::unavailable("connect to the broker: it does not answer");
        let mut fault = LastingFault::default();
        assert_eq!(fault.reason(&refused), refused.chain());
        assert_eq!(fault.reason(&silent), refused.chain());
        // Another server is another fault, and so is what stands in the way.
        let store = Error::unavailable("read topics");
        assert_eq!(fault.reason(&store), store.chain());
        for clash in [Error::conflict("declare a: clash"), Error::conflict("declare a: another clash")] {
            assert_eq!(fault.reason(&clash), clash.chain());
        }
        assert_eq!(fault.reason(&silent), silent.chain());
        fault.ended();
        assert_eq!(fault.reason(&refused), refused.chain());
    }
}
