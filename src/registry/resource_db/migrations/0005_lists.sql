-- A lender's own hosts and leases, newest first.
CREATE INDEX hosts_of_a_lender ON hosts (lender, id);
CREATE INDEX leases_of_a_lender ON leases (lender, id);
