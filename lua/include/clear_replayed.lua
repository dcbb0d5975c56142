-- The clear of a rank that a replay repeats: the rank's last status still counts for the others.
--
-- INCLUDE  caller, changes, order, counts

-- last: its last status, which a room that has failed may not have. has_change: whether the last change is one of this
-- room.
local function clear_replayed(room, fields, last, has_change)
  local counts, own = parse_counts(fields.counts), fields[status_field]
  if not own then counts[ORDER[last]] = counts[ORDER[last]] + 1 end
  redis.call('HSET', room, cleared_field, own or last, 'counts', format_cleared(counts))
  redis.call('HDEL', room, status_field, lease_field)
  local n = #changes
  if not has_change then
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = room, fields.status, false, false
    n = n + 5
  end
  changes[n] = {'rank:' .. rank, 'absent'}
end
