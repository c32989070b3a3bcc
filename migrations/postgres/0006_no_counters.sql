-- What was sent is no longer counted: nobody asked, and the count was a half of what planning a mail cost.

DROP TRIGGER deliveries_are_counted_in ON deliveries;
DROP TRIGGER deliveries_are_counted_out ON deliveries;
DROP FUNCTION deliveries_are_counted();
DROP TABLE delivery_counters;
