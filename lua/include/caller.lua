-- The caller, for scripts that write for a rank or under a lease. Times are milliseconds.
--
-- INCLUDE  rank_fields
--
-- KEYS begin with feed, epoch, leases, owned. ARGV begin with feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms,
-- nonce, rank, world_size, owner, incarnation, author. Empty arguments: no rank, no lease. With ranks, status is the
-- consensus, and each rank has a field status:<rank>, or cleared:<rank> once it has cleared; and by:<rank>, the
-- incarnation of the lease under which it holds its part, until its own Success, Failed or clear.

local rank, world_size, owner, incarnation, author = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local status_field, cleared_field, length_field = rank_fields(rank)
local lease_field = 'by:' .. rank
