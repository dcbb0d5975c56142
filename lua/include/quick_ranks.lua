-- The fast path of write_ranks.lua: ranks of a live room that go up or join, or that clear it.
--
-- It comes before all else, and has few functions and tables, as advance.lua does. Whatever is unusual, it leaves to
-- the rest of the script, before it writes; a test compares the two. The arguments are as in write_ranks.lua.

local incarnations = {}  -- of the leases that are held, by owner
local found, counts, is_clear  -- of one room: the values of its fields, and its ranks
local entry, gone, words, holders, lengths  -- what is to be done
local outcomes, outcome, common  -- of all ranks; of the last one; and the status that all get
local size, changed  -- of entry, and of words

-- Reads a room for its ranks, whose words follow each other from ARGV[at + 1] on.
local function read_quick(room, at, last)
  -- Tables with places for 8 ranks: one that grows item by item costs more.
  local owners, n, m = {nil, nil, nil, nil, nil, nil, nil, nil}, 5, 0
  local names = {
    'status', 'world_size', 'generation', 'counts', 'version', nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil,
    nil, nil, nil, nil, nil
  }
  is_clear = ARGV[at + 5] == 'absent'
  if is_clear then names[6], n = 'replayed', 6 end
  for k = at, last, 6 do
    local owner, status = ARGV[k + 3], ARGV[k + 5]
    n = n + 1
    names[n] = ARGV[k + 1]
    if status == 'WaitingForInput' or status == 'Transferring' then
      n = n + 1
      names[n] = ARGV[k + 2]  -- a rank that joins holds no part, and one that ends will hold none
    end
    if owner ~= '' and status ~= 'absent' and not incarnations[owner] then
      m = m + 1
      incarnations[owner], owners[m] = '', owner
    end
  end
  if m > 0 then
    local values = redis.pcall('HMGET', KEYS[3], unpack(owners, 1, m))  -- of another type: the rest reports it
    for i = 1, m do incarnations[owners[i]] = string.match(values[i] or '', '^(%d+) ') end
  end
  found = redis.pcall('HMGET', room, unpack(names, 1, n))
  counts = {string.match(found[4] or '', '^(%d+) (%d+) (%d+) (%d+) (0) (%d+)$')}
  entry = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
  words, outcomes = {nil, nil, nil, nil, nil, nil, nil, nil}, {nil, nil, nil, nil, nil, nil, nil, nil}
  gone, holders, lengths, outcome, common, size, changed = {}, {}, {}, nil, nil, 0, 0
end
