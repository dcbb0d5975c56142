-- How many ranks of a room are at each status: so the consensus needs no field of another rank.
--
-- INCLUDE  order
--
-- A room with ranks has them in its field counts, as text: how many are at Bootstrapping, WaitingForInput,
-- Transferring, Success and Failed, those that have cleared at their last status; and how many have cleared. An unknown
-- status (made by hand) counts as Success: its rank is not missing, and lowers nothing. In Lua they are a table by the
-- order of the statuses, with the last one at 5.

local STATUSES = {'Bootstrapping', 'WaitingForInput', 'Transferring', 'Success'}

-- Returns the counts in a room's field; nil if they are missing or wrong (made by hand), as when a rank that has the
-- status own is not among them.
local function parse_counts(text, own)
  if not text then return nil end
  local one, two, three, four, failed, cleared = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local counts = one and {[0] = failed, one, two, three, four, cleared}
  return counts and not (own and counts[ORDER[own] or 4] == '0') and counts
end

local function format_counts(counts)
  return table.concat({counts[1], counts[2], counts[3], counts[4], counts[0], counts[5]}, ' ')
end

-- Returns how many ranks have a status: those that have cleared count at their last one, too.
local function ranks_left(counts)
  return counts[0] + counts[1] + counts[2] + counts[3] + counts[4] - counts[5]
end

-- Returns the text of counts, with one more rank that has cleared.
local function format_cleared(counts)
  counts[5] = counts[5] + 1
  return format_counts(counts)
end

-- Returns the counts of a room, from all its fields.
local function count_ranks(fields)
  local counts = {[0] = 0, 0, 0, 0, 0, 0}
  for name, status in pairs(fields) do
    local kind = string.match(name, '^(%l+):%d+$')
    if kind == 'status' or kind == 'cleared' then
      local order = ORDER[status] or 4
      counts[order] = counts[order] + 1
      if kind == 'cleared' then counts[5] = counts[5] + 1 end
    end
  end
  return counts
end

-- Failed if any rank is, Bootstrapping while one is missing, else the lowest status.
local function consensus_of_ranks(counts, world_size)
  if counts[0] - 0 > 0 then return 'Failed' end
  if counts[1] + counts[2] + counts[3] + counts[4] - world_size ~= 0 then return 'Bootstrapping' end
  for order = 1, 3 do
    if counts[order] - 0 > 0 then return STATUSES[order] end
  end
  return 'Success'
end
