-- What several ranks of one room say, put together: one read, one write, one change.
--
-- INCLUDE  order, counts, read_fields, limit
--
-- A group has the room's fields, with what was decided so far, and its counts; sets and deletes, the fields to write;
-- words, for the feed; changed, how many statuses do; holders, the leases that take part; lengths, the decode prefix
-- lengths to record. It takes statuses of a room that is live, or clears. All else is left to write_room, rank by rank.

local function add_pair(list, name, value)
  local n = #list
  list[n + 1], list[n + 2] = name, value
end

-- Reads a room for the ranks whose fields are named.
local function read_group(room, names)
  local values, fields = redis.pcall('HMGET', room, unpack(names)), {}
  local group = {sets = {}, deletes = {}, words = {}, holders = {}, lengths = {}, changed = 0}
  for i = 1, #values do fields[names[i]] = values[i] or nil end
  local counts = fields.world_size and parse_counts(fields.counts)
  for i = 1, counts and #names or 0 do
    local own = string.find(names[i], '^status:') and fields[names[i]]
    counts = counts and not (own and counts[ORDER[own] or 4] == '0') and counts
  end
  if fields.world_size and not counts then
    fields = read_fields(room)
    counts = count_ranks(fields)
  end
  fields_read = fields_read + #names
  group.fields, group.counts, group.type_error = fields, counts, values.err and values
  return group
end
