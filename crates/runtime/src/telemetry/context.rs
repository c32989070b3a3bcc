//! Trace contexts as OpenTelemetry has them: their decision on sampling, and which one log lines belong to.

use std::future::Future;

use opentelemetry::{
    Context, ContextGuard,
    context::FutureExt as _,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tidings_domain::trace_context::TraceContext;

/// Where the flags stand in a `traceparent` of version 00.
const FLAGS: std::ops::Range<usize> = 53..55;

/// Whether whoever began `trace` decided to sample it; none where there is no trace.
pub(super) fn is_sampled(trace: &TraceContext) -> Option<bool> {
    let flags = trace.traceparent.as_deref()?.get(FLAGS)?;
    Some(u8::from_str_radix(flags, 16).ok()? & 1 == 1)
}

/// Whether something caused by `parent`, or where that is none by `links`, is to be recorded: their decision is kept.
/// Where there is no cause it is not decided yet. One that is recorded is enough for what is done once for many.
pub(super) fn is_wanted(parent: &TraceContext, links: &[TraceContext]) -> bool {
    is_sampled(parent).unwrap_or_else(|| {
        let mut decided = links.iter().filter_map(is_sampled).peekable();
        decided.peek().is_none() || decided.any(|sampled| sampled)
    })
}

/// What is passed on where nothing is recorded: the parent, else the only link.
pub(super) fn passed_on(parent: &TraceContext, links: &[TraceContext]) -> TraceContext {
    match (parent.traceparent.is_some(), links) {
        (false, [one]) => one.clone(),
        _ => parent.clone(),
    }
}

/// The span context that `trace` names.
pub(super) fn span_context(trace: &TraceContext) -> Option<SpanContext> {
    let text = trace.traceparent.as_deref()?;
    let mut parts = text.split('-').skip(1);
    let trace_id = TraceId::from_hex(parts.next()?).ok()?;
    let span_id = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let state =
        trace.tracestate.as_deref().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    Some(SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, state))
}

/// The text form of a span context.
pub(super) fn trace_context(span: &SpanContext) -> TraceContext {
    if !span.is_valid() {
        return TraceContext::default();
    }
    let traceparent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    let tracestate = span.trace_state().header();
    TraceContext::parse(Some(&traceparent), Some(&tracestate))
}

/// Until the answer is dropped, log lines of this thread belong to `trace`. Not to be held across an await.
pub fn enter(trace: &TraceContext) -> Option<ContextGuard> {
    Some(current(trace)?.attach())
}

/// Runs `future` so that its log lines belong to `trace`, on whichever thread it is polled.
pub async fn within<F: Future>(trace: &TraceContext, future: F) -> F::Output {
    match current(trace) {
        Some(context) => future.with_context(context).await,
        None => future.await,
    }
}

fn current(trace: &TraceContext) -> Option<Context> {
    span_context(trace).map(|span| Context::new().with_remote_span_context(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(flags: &str) -> TraceContext {
        let text = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        TraceContext::parse(Some(&text), None)
    }

    #[test]
    fn the_decision_of_whoever_began_is_kept() {
        let (on, off, none) = (trace("01"), trace("00"), TraceContext::default());
        assert!(is_wanted(&on, &[]) && !is_wanted(&off, &[]));
        assert!(is_wanted(&none, &[]), "nobody has decided");
        assert!(!is_wanted(&none, &[off.clone(), off.clone()]));
        assert!(is_wanted(&none, &[off.clone(), on.clone()]), "done once for many, one of which is recorded");
        assert!(!is_wanted(&off, std::slice::from_ref(&on)), "a parent decides");
        assert!(!is_wanted(&trace("02"), &[]), "another flag is not that of sampling");
        assert_eq!(passed_on(&none, std::slice::from_ref(&off)), off);
        assert_eq!(passed_on(&none, &[off.clone(), on.clone()]), none);
    }

    #[tokio::test]
    async fn log_lines_find_the_trace_of_their_future() {
        let id = || Context::map_current(|context| context.span().span_context().span_id().to_string());
        let of_it = trace("00");
        let inside = within(&of_it, async {
            tokio::task::yield_now().await;
            id()
        });
        assert_eq!(inside.await, "b7ad6b7169203331");
        assert_eq!(id(), "0000000000000000");
        let entered = enter(&trace("01"));
        assert_eq!(id(), "b7ad6b7169203331");
        drop(entered);
        assert!(enter(&TraceContext::default()).is_none());
    }
}
