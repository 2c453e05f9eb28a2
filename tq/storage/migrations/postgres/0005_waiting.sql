-- The index by which tasks that wait are listed. Every search among those that are pending, timed or stopping could
-- use it too, and sort: while nothing waited, that looked as cheap as the index made for it, and later read all that
-- waits. By "state + 0" it is used only where that is asked for.
DROP INDEX lives_waiting;
CREATE INDEX lives_waiting ON lives (seq) WHERE state + 0 IN (0, 1, 2, 4);
