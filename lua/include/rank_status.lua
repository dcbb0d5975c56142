-- The status of the caller's rank, and what follows for the room.
--
-- INCLUDE  caller, order, counts

-- Adds to fields the status of the caller's rank, and what follows for all.
local function set_rank_status(fields, status)
  local counts, own, order = parse_counts(fields.counts) or count_ranks({}), fields[status_field], ORDER[status]
  if own then counts[ORDER[own] or 4] = counts[ORDER[own] or 4] - 1 end
  counts[order] = counts[order] + 1
  fields[status_field], fields.counts = status, format_counts(counts)
  fields.status = consensus_of_ranks(counts, fields.world_size)
end
