-- What was sent is no longer counted: nobody asked, and every mail paid for it.

DROP TRIGGER deliveries_counted_in;
DROP TRIGGER deliveries_counted_out;
DROP TABLE counters;
